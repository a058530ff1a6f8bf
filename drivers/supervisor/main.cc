// vmtest-supervisor: stands between a test and its hypervisor. Started by the library, not by people.

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <string>

#include "platform.h"
#include "protocol.h"
#include "supervisor.h"

namespace {

constexpr const char* kUsage =
    "vmtest-supervisor is started by vmtest itself, with its owner's connection as descriptor 3.\n"
    "usage: vmtest-supervisor --name N --work-dir D --runtime-dir D --owner PID --owner-start TICKS [--evidence-dir D]\n";

std::map<std::string, std::string> parse(int argc, char** argv) {
  std::map<std::string, std::string> values;
  for (int i = 1; i + 1 < argc; i += 2) values[argv[i]] = argv[i + 1];
  return values;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace vmtest;  // NOLINT(google-build-using-namespace)
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::printf("vmtest-supervisor %s protocol %d\n", VMTEST_VERSION, supervisor::kProtocolVersion);
    return 0;
  }
  auto values = parse(argc, argv);
  if (values.count("--work-dir") == 0 || values.count("--runtime-dir") == 0 || values.count("--owner") == 0) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  // A process of its own session and, by the second fork, no child of the test: who kills a test with all its descendants
  // (ctest, CI systems) must not kill the one that cleans up after it.
  // The first process ends only when the second has left its group, which is killed when it ends.
  int left_group[2];
  if (::pipe(left_group) != 0) return 1;
  const pid_t child = ::fork();
  if (child < 0) return 1;
  if (child > 0) {
    ::close(left_group[1]);
    char end = 0;
    [[maybe_unused]] const ssize_t count = ::read(left_group[0], &end, 1);
    ::_exit(0);
  }
  ::setsid();
  if (::chdir("/") != 0) return 1;
  ::signal(SIGPIPE, SIG_IGN);
  supervisor::close_from(supervisor::kOwnerDescriptor + 1);
  ::fcntl(supervisor::kOwnerDescriptor, F_SETFD, FD_CLOEXEC);

  FileDescriptor owner(supervisor::kOwnerDescriptor);
  try {
    FileDescriptor spare = owner.duplicate();  // to report a failure to start
    try {
      supervisor::Supervisor instance({values["--name"], values["--work-dir"], values["--runtime-dir"], values["--evidence-dir"],
                                       static_cast<pid_t>(std::strtol(values["--owner"].c_str(), nullptr, 10)),
                                       std::strtoull(values["--owner-start"].c_str(), nullptr, 10)},
                                      std::move(owner));
      spare.reset();
      instance.run();
    } catch (const std::exception& error) {
      if (spare) supervisor::send(spare.get(), {{"ok", false}, {"error", error.what()}});
      return 1;
    }
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
