#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "../host_plan.h"
#include "vmtest/host/file_lock.h"

namespace vmtest::propolis {

/// An instance on a server that lives on when its run ends.
struct ForeignInstance {
  std::string host;
  std::uint16_t port = 0;
  /// Only this one is stopped: by then the server may hold another.
  std::string id;
};

/// Changes to the host that go with this object, and an instance elsewhere that must not run on. A journal names those that are
/// begun, so that another process takes them back if this one cannot. It stays as long as something could not be taken back.
class HostSteps {
 public:
  /// Does them in their order. When one fails it and those before it are taken back, since a command that failed or was given up
  /// may have done its work; throws Error with its own words then, and with what could not be taken back.
  HostSteps(std::filesystem::path journal, std::vector<Step> steps, std::optional<ForeignInstance> instance);
  /// Takes them back, the last first. What cannot be taken back is said on standard error.
  ~HostSteps();
  HostSteps(const HostSteps&) = delete;
  HostSteps& operator=(const HostSteps&) = delete;

  /// Takes back what a journal says, unless the process that wrote it lives. True when nothing is left to do; what is, is said on
  /// standard error.
  static bool undo(const std::filesystem::path& journal) noexcept;
  /// The same for all journals beside this one, as far as it can be done in some time: later runs may do the rest.
  static void undo_others(const std::filesystem::path& journal) noexcept;

 private:
  void write_journal(std::size_t begun) const;

  const std::filesystem::path journal_;
  const std::vector<Step> steps_;
  const std::optional<ForeignInstance> instance_;
  std::optional<FileLock> lock_;
};

}  // namespace vmtest::propolis
