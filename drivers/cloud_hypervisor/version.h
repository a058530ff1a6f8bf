#pragma once

#include <filesystem>
#include <string>

namespace vmtest::cloud_hypervisor {

/// "53.0.0": throws when it is too old, or no version.
void require_version(const std::string& version);

/// How a version sends a guest to another process (vm.send-migration), which most versions have changed.
struct MigrationWay {
  /// Whether it takes limits: of time, of downtime, of connections. What does not drops them without a word.
  bool takes_limits = true;
  /// Whether it answers at once, and tells of the end by events. What does not answers when the guest has moved or stays.
  bool answers_at_once = true;

  bool operator==(const MigrationWay&) const = default;
};
/// Throws like require_version().
[[nodiscard]] MigrationWay migration_way(const std::string& version);

/// What a program says of itself, "53.0.0", asked once for each file. Throws Error with its own words when it does not run.
[[nodiscard]] std::string version_of(const std::filesystem::path& program);

}  // namespace vmtest::cloud_hypervisor
