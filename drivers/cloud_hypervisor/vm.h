#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "api_client.h"
#include "event_stream.h"
#include "supervised/supervised_vm.h"
#include "vmtest/migration_facet.h"

namespace vmtest::cloud_hypervisor {

/// The program's path: VMTEST_CLOUD_HYPERVISOR, else `cloud-hypervisor` in PATH. Throws Error when it is not there.
[[nodiscard]] std::filesystem::path find_cloud_hypervisor();

/// Its name among the supervisor's processes.
inline constexpr const char* kProcess = "cloud-hypervisor";
/// Names of files in the VM's folders.
inline constexpr const char* kApiSocket = "api.sock";
inline constexpr const char* kLog = "cloud-hypervisor.log";
/// Where two processes meet for a migration, in the folder of the second.
inline constexpr const char* kMigrationSocket = "migration.sock";

/// A socket's path in the folder of a process, below the VM's runtime folder: as long as it is there, not the same.
[[nodiscard]] std::filesystem::path path_like(const char* socket);

/// The firmware that VMTEST_CLOUD_HYPERVISOR_FIRMWARE names. Throws Unsupported when it names none that is there.
[[nodiscard]] std::filesystem::path find_firmware();

/// What is known about Cloud Hypervisor's end.
struct Ending {
  ExitStatus status;
  /// The end of its log.
  std::string last_words;
  /// Whether the guest said that its kernel panicked.
  bool panicked = false;
  /// Whether this driver was asked to stop it.
  bool asked = false;
};
/// Puts it in words and judges whether somebody asked for it.
[[nodiscard]] VmExit judge_ending(const Ending& ending);

/// One VM: the connections to its supervisor and its Cloud Hypervisor. What both modes have in common.
class CloudHypervisorVm : public SupervisedVm {
 public:
  CloudHypervisorVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner);

 protected:
  VmExit judge(const SupervisedExit& exit, bool asked) override;

  /// The machine as it is started: its TAP named. Throws Unsupported for what this host cannot run.
  [[nodiscard]] VmConfig describe(const MachineConfig& machine) const;
  /// The process with those options beside the common ones. Sockets and events of an earlier run are gone then.
  [[nodiscard]] SupervisedProcess command(const std::vector<std::string>& options, const MachineConfig& machine) const;
  /// A new folder for a process to work in, where it makes the sockets that its description names.
  [[nodiscard]] std::filesystem::path make_folder() const;
  /// Has those sockets' names in the runtime folder lead into it.
  void enter_folder(const std::filesystem::path& folder) const;
  /// Removes the folder that they lead into, if any.
  void leave_folder() const;
  /// Returns when the supervisor listens to the guest's serial port: until v53 what a guest prints before that is lost.
  void await_console();
  /// All that the event monitor has said since the start.
  [[nodiscard]] std::vector<Event> events() const;
  [[nodiscard]] bool has_event(const Event& event) const;
  [[nodiscard]] std::filesystem::path event_file() const { return handle().work_dir / "events.json"; }
};

/// By the API.
class ApiVm final : public CloudHypervisorVm {
 public:
  ApiVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner);

  void launch(const MachineConfig& machine) override;
  void suspend() override;
  void resume() override;
  bool press_power_button(VmState now, const Deadline& deadline) override;

  [[nodiscard]] const ApiClient& api() const { return api_; }
  /// Writes the state of a guest that stands still and ends Cloud Hypervisor.
  void freeze(const std::filesystem::path& state_file, const Deadline& deadline);
  /// Writes the state and continues from it on those disks. Returns how long the guest stood still.
  std::chrono::microseconds checkpoint(const std::filesystem::path& state_file,
                                       const std::map<std::string, std::filesystem::path>& overlays, const Deadline& deadline);
  /// Moves the running guest into another process. See MigrationFacet.
  MigrationReport migrate(const MachineConfig& machine, const Deadline& deadline);
  /// Has the guest let go of a device, and returns when it has.
  void remove_device(const std::string& id, const Deadline& deadline);

 private:
  VmState running_state(const Deadline& deadline) override;

  /// Waits until the guest, whose migration failed, is this process' again.
  void await_return() const;
  /// Restores a snapshot that was laid out there.
  void continue_from(const std::filesystem::path& folder, const Deadline& deadline);
  /// Starts Cloud Hypervisor, which has no VM until `begin` makes one.
  void run(SupervisedProcess process, const std::vector<Companion>& companions, const std::function<void()>& begin);

  const ApiClient api_;
};

/// By the command line alone.
class CommandLineVm final : public CloudHypervisorVm {
 public:
  using CloudHypervisorVm::CloudHypervisorVm;

  void launch(const MachineConfig& machine) override;
  void suspend() override;
  void resume() override;
  bool press_power_button(VmState, const Deadline&) override { return false; }

 private:
  VmState running_state(const Deadline&) override { return VmState::Running; }
};

}  // namespace vmtest::cloud_hypervisor
