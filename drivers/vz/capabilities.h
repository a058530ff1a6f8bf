#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace vmtest::vz_driver {

/// What the helper says that the framework offers on this host.
struct HostCapabilities {
  /// "macOS 15.0".
  std::string os;
  /// Why what it does not offer is missing, by the feature's name in the helper's host_features.cc.
  std::map<std::string, std::string> missing;

  /// Why a feature is missing; empty when it is there.
  [[nodiscard]] std::optional<std::string> why_not(const std::string& feature) const;
};

/// Reads the answer of host.capabilities. Throws Error when it is none.
[[nodiscard]] HostCapabilities parse_capabilities(std::string_view text);

/// The helper's program: VMTEST_VZ_HELPER, else beside this program, in the build tree or the installed libexec folder. Throws
/// Error naming the places looked at; on another system than macOS only the variable is looked at.
[[nodiscard]] std::filesystem::path find_helper();
/// Asks it, once a process. Throws Error with its words when it does not answer.
[[nodiscard]] const HostCapabilities& host_capabilities(const std::filesystem::path& helper);

}  // namespace vmtest::vz_driver
