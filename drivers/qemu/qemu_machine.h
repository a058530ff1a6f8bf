#pragma once

#include <atomic>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "qmp_client.h"
#include "vmtest/qemu_driver.h"
#include "vmtest/supervisor.h"

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

/// One VM: the connections to its supervisor and its QEMU. All calls may be made by several threads at once.
class QemuDriver::Machine {
 public:
  enum class Owner { Us, Somebody };
  Machine(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner);

  [[nodiscard]] const VmHandle& handle() const { return handle_; }
  [[nodiscard]] SupervisorConnection& supervisor() const { return *supervisor_; }
  /// Held by calls that change the state, one at a time.
  [[nodiscard]] std::mutex& order() { return order_; }

  /// The true state; Timeout when QEMU does not say in time.
  [[nodiscard]] VmState state(const Deadline& deadline);
  [[nodiscard]] VmState state();
  /// Starts QEMU and returns when it answers. Throws Error with QEMU's own words when it does not; it is not running then.
  void launch(const MachineConfig& config);
  /// Has disks continue in overlays and writes memory and device state; the guest goes on afterwards if it ran before.
  /// Returns how long it stood still.
  std::chrono::microseconds checkpoint(const std::filesystem::path& state_file,
                                       const std::map<std::string, std::filesystem::path>& overlays, const Deadline& deadline);
  /// Stops the guest, writes its device state to `state_file` and ends QEMU; memory that is shared with a file is left out.
  void freeze(const std::filesystem::path& state_file, const Deadline& deadline);
  /// The connection to its monitor. Throws std::system_error when QEMU does not run.
  std::shared_ptr<QmpClient> qmp(const Deadline& deadline);
  /// Runs a QMP command, for as long as a living QEMU may take or until `deadline`.
  nlohmann::json execute(const std::string& command);
  nlohmann::json execute(const std::string& command, const Deadline& deadline);
  /// How QEMU ended, waiting up to `timeout` for it.
  [[nodiscard]] std::optional<VmExit> wait_exit(std::chrono::milliseconds timeout);
  /// Remembers, for this process and others, that QEMU's end was asked for.
  void mark_asked() noexcept;

 private:
  void forget_asked();
  /// Gives a QEMU that waits for it the device state, and lets the guest go on.
  static void restore(QmpClient& qemu, const std::filesystem::path& state_file);
  std::shared_ptr<QmpClient> connect_started();
  void drop_qmp();
  /// Readable when QEMU has ended; none when it was never started or is gone for good. Waiting on it holds up nobody, while
  /// waiting for the supervisor's word would hold up other threads' requests to it.
  std::shared_ptr<FileDescriptor> process();
  [[nodiscard]] std::filesystem::path asked_file() const { return handle_.work_dir / "stop-asked"; }

  const VmHandle handle_;
  const std::shared_ptr<SupervisorConnection> supervisor_;
  const Owner owner_;
  std::mutex order_;
  std::atomic<bool> asked_ = false;
  std::mutex mutex_;
  /// Guarded by mutex_. Shared with calls that are under way when QEMU is started anew.
  std::shared_ptr<QmpClient> qmp_;
  std::shared_ptr<FileDescriptor> process_;
};

}  // namespace vmtest
