// Preloaded into the SSH servers that the tests start. Both look up the account's home and login shell in the system's
// account database; this gives them the test's own, so that a test neither reads nor changes the files of a real home.

#include <dlfcn.h>
#include <pwd.h>
#include <shadow.h>

#include <cstdlib>

namespace {

passwd* redirect(passwd* entry) {
  if (entry == nullptr) return entry;
  if (char* home = std::getenv("VMTEST_PEER_HOME")) entry->pw_dir = home;
  if (char* shell = std::getenv("VMTEST_PEER_SHELL")) entry->pw_shell = shell;
  static char unlocked[] = "x";
  entry->pw_passwd = unlocked;
  return entry;
}

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

passwd* getpwnam(const char* name) { return redirect(next<passwd* (*)(const char*)>("getpwnam")(name)); }
// Whether the account is locked for passwords does not matter.
spwd* getspnam(const char*) { return nullptr; }
passwd* getpwuid(uid_t uid) { return redirect(next<passwd* (*)(uid_t)>("getpwuid")(uid)); }
}
