#pragma once

#include <libssh/libssh.h>

#include <memory>
#include <string>

namespace vmtest::ssh {

struct SessionDeleter {
  // Not ssh_disconnect(): it forgets the socket without closing it.
  void operator()(ssh_session session) const { ssh_free(session); }
};
using SessionPtr = std::unique_ptr<ssh_session_struct, SessionDeleter>;

struct KeyDeleter {
  void operator()(ssh_key key) const { ssh_key_free(key); }
};
using KeyPtr = std::unique_ptr<ssh_key_struct, KeyDeleter>;

struct EventDeleter {
  void operator()(ssh_event event) const { ssh_event_free(event); }
};
using EventPtr = std::unique_ptr<ssh_event_struct, EventDeleter>;

struct CharDeleter {
  void operator()(char* text) const { ssh_string_free_char(text); }
};
using CharPtr = std::unique_ptr<char, CharDeleter>;

/// A private key from the text of its file. Throws Error.
[[nodiscard]] KeyPtr import_private_key(const std::string& text);
/// A public key from its line. Throws Error.
[[nodiscard]] KeyPtr import_public_key(const std::string& line);
/// "SHA256:...".
[[nodiscard]] std::string fingerprint(ssh_key key);

}  // namespace vmtest::ssh
