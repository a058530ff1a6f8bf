#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vmtest::vz {

struct OsVersion {
  unsigned major = 0;
  unsigned minor = 0;

  // The check takes the 0 that a comparison is compared with for a pointer.
  auto operator<=>(const OsVersion&) const = default;  // NOLINT(modernize-use-nullptr)
};
/// "macOS 14.0".
[[nodiscard]] std::string to_string(const OsVersion& version);

/// What the framework and the system say about this host.
struct HostFacts {
  enum class Rosetta { NotSupported, NotInstalled, Installed };

  OsVersion version;
  /// What the helper was compiled for: "arm64" or "x86_64".
  std::string architecture;
  /// Whether the framework can run VMs here at all.
  bool virtualization = true;
  bool nested_virtualization = false;
  Rosetta rosetta = Rosetta::NotSupported;
  unsigned least_cpus = 1;
  unsigned most_cpus = 1;
  std::uint64_t least_memory_mib = 1;
  std::uint64_t most_memory_mib = 1;
  /// Names of the host's interfaces a VM can be bridged to.
  std::vector<std::string> bridged_interfaces = {};
};

}  // namespace vmtest::vz
