#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "supervised/supervised_vm.h"
#include "vz/api_client.h"

namespace vmtest::vz_driver {

/// What is known about the helper's end.
struct Ending {
  ExitStatus status;
  /// The end of its log.
  std::string last_words;
  /// All that it said since its start.
  std::vector<Event> events = {};
  /// Whether this driver was asked to stop it.
  bool asked = false;
};
/// Puts it in words and judges whether somebody asked for it.
[[nodiscard]] VmExit judge_ending(const Ending& ending);

/// What the framework's state means for a VM whose helper runs.
[[nodiscard]] VmState state_of(State state);

/// One VM: the connections to its supervisor and its helper.
class VzVm final : public SupervisedVm {
 public:
  VzVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner);

  void launch(const MachineConfig& machine) override;
  void suspend() override;
  void resume() override;
  bool press_power_button(VmState now, const Deadline& deadline) override;

  [[nodiscard]] const ApiClient& api() const { return api_; }
  /// Writes the state of a guest that stands still and ends the helper.
  void freeze(const std::filesystem::path& state_file, const Deadline& deadline);
  /// Writes the state of this moment. Returns how long the guest stood still.
  std::chrono::microseconds checkpoint(const std::filesystem::path& state_file, const Deadline& deadline);

 private:
  VmState running_state(const Deadline& deadline) override;
  VmExit judge(const SupervisedExit& exit, bool asked) override;

  void write_state(const std::filesystem::path& state_file, const Deadline& deadline) const;
  [[nodiscard]] std::filesystem::path event_file() const { return handle().work_dir / "events.jsonl"; }

  const ApiClient api_;
};

}  // namespace vmtest::vz_driver
