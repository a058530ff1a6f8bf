#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "qemu_command_line.h"
#include "qmp_client.h"
#include "supervised/supervised_vm.h"
#include "vmtest/migration_facet.h"

namespace vmtest {

/// What is known about QEMU's end.
struct QemuEnding {
  ExitStatus status;
  /// The end of QEMU's log.
  std::string last_words;
  /// Why QEMU said it would shut down ("guest-shutdown"), when its last event was heard.
  std::string reason;
  /// Whether this driver was asked to stop it.
  bool asked = false;
};
/// Puts it in words and judges whether somebody asked for it.
[[nodiscard]] VmExit judge_ending(const QemuEnding& ending);

/// What a run state of QEMU (the "status" of query-status) means for the VM.
[[nodiscard]] VmState state_of_run_state(const std::string& run_state);

/// The block node that a disk's device writes to at present, out of what query-block says. Throws Error when there is no such
/// disk.
[[nodiscard]] nlohmann::json top_node(const nlohmann::json& blocks, const std::string& disk);

/// One VM: the connections to its supervisor and its QEMU.
class QemuVm final : public SupervisedVm {
 public:
  QemuVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner);

  void launch(const MachineConfig& config) override;
  void suspend() override { execute("stop"); }
  void resume() override { execute("cont"); }
  bool press_power_button(VmState now, const Deadline& deadline) override;

  /// Has disks continue in overlays and writes memory and device state; the guest goes on afterwards if it ran before.
  /// Returns how long it stood still.
  std::chrono::microseconds checkpoint(const std::filesystem::path& state_file,
                                       const std::map<std::string, std::filesystem::path>& overlays, const Deadline& deadline);
  /// Stops the guest, writes its device state to `state_file` and ends QEMU; memory that is shared with a file is left out.
  void freeze(const std::filesystem::path& state_file, const Deadline& deadline);
  /// Moves the guest into another QEMU; see MigrationFacet.
  MigrationReport migrate(const MachineConfig& machine, const Deadline& deadline);
  /// The connection to its monitor. Throws std::system_error when QEMU does not run.
  std::shared_ptr<QmpClient> qmp(const Deadline& deadline);

 private:
  VmState running_state(const Deadline& deadline) override;
  VmExit judge(const SupervisedExit& exit, bool asked) override;

  nlohmann::json execute(const std::string& command);
  /// The process that runs such a machine. `paths` lacks the program and this VM's name.
  [[nodiscard]] SupervisedProcess describe(const MachineConfig& machine, QemuPaths paths) const;
  /// Gives a QEMU that waits for it the state, and lets the guest go on.
  static void restore(QmpClient& qemu, const std::filesystem::path& state_file);
  [[nodiscard]] std::filesystem::path monitor_socket() const;

  std::mutex mutex_;
  /// Guarded by mutex_. Shared with calls that are under way when QEMU is started anew.
  std::shared_ptr<QmpClient> qmp_;
};

}  // namespace vmtest
