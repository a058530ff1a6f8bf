#pragma once

#include <optional>
#include <string>

#include "guest/seed.h"

namespace vmtest::guest {

/// Where the SSH server's host key is.
inline constexpr const char* kHostKeyFile = "/etc/dropbear/dropbear_ed25519_host_key";

/// Reads the seed from the disk with ISO 9660 label `cidata`; empty when there is no such disk. Throws std::runtime_error
/// when the seed is not in the form docs/seed.md describes.
[[nodiscard]] std::optional<Seed> find_seed();

/// Gives the system its name: kernel host name, /etc/hostname, /etc/hosts.
void set_hostname(const std::string& hostname);
/// Whether this guest is a `tiny`, whose seed says at each boot what its network is.
[[nodiscard]] bool reads_seed_at_each_boot();
/// Whether the work of this instance (files, users, commands) was done at an earlier boot.
[[nodiscard]] bool instance_is_known(const std::string& instance_id);
/// Remembers that it is done now.
void remember_instance(const std::string& instance_id);
/// Machine id, host key, users, files: what is done once per instance. Throws std::runtime_error that names the step.
void apply_seed(const Seed& seed);
/// Makes the root file system as large as its disk. Throws std::runtime_error with the kernel's reason.
void grow_root();
/// Makes a host key when there is none.
void ensure_host_key();

}  // namespace vmtest::guest
