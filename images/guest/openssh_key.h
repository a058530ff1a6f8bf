#pragma once

#include <string>
#include <string_view>

namespace vmtest::guest {

/// Turns an unencrypted ed25519 key in OpenSSH's private key format (PROTOCOL.key of OpenSSH) into the key file dropbear
/// reads: the SSH string "ssh-ed25519", then an SSH string of seed and public key. Throws std::runtime_error that says
/// what is wrong with the key, never what is in it.
[[nodiscard]] std::string dropbear_key(std::string_view openssh_key);

}  // namespace vmtest::guest
