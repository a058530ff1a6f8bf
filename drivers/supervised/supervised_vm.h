#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "companions/companions.h"
#include "vmtest/deadline.h"
#include "vmtest/driver.h"
#include "vmtest/error.h"
#include "vmtest/supervised_driver.h"
#include "vmtest/supervisor.h"

namespace vmtest {

/// Nobody listens on a Unix socket (yet).
[[nodiscard]] bool is_absent(const std::system_error& error);

/// The hypervisor's process lives, and what it says of its VM's state makes no sense, or it listens no more.
class StateUnknown : public Error {
 public:
  using Error::Error;
};

/// One VM whose hypervisor is a process under a supervisor: what all such have in common, and what each must tell. All calls may
/// be made by several threads at once; those that change the state hold order().
class SupervisedVm {
 public:
  using Owner = SupervisedDriver::Owner;
  /// The hypervisor's process by its name among the supervisor's, and its title for people: "qemu", "QEMU".
  struct Program {
    const char* process;
    const char* title;
    /// Whether it connects to its companions anew when the guest reboots.
    bool reconnects = false;
  };

  SupervisedVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner, Program program);
  virtual ~SupervisedVm() = default;
  SupervisedVm(const SupervisedVm&) = delete;
  SupervisedVm& operator=(const SupervisedVm&) = delete;

  [[nodiscard]] const VmHandle& handle() const { return handle_; }
  [[nodiscard]] SupervisorConnection& supervisor() const { return *supervisor_; }
  /// Held by calls that change the state, one at a time.
  [[nodiscard]] std::mutex& order() { return order_; }

  /// Starts the hypervisor and returns when the guest runs. Throws Error with the hypervisor's own words when it does not; the
  /// hypervisor is not running then.
  virtual void launch(const MachineConfig& machine) = 0;
  /// See Driver::start_steps().
  [[nodiscard]] std::vector<Step> start_steps() const;
  virtual void suspend() = 0;
  virtual void resume() = 0;
  /// Tells the guest to power off, whatever state it is in. False when this hypervisor has no way to.
  virtual bool press_power_button(VmState now, const Deadline& deadline) = 0;

  /// The true state; throws Timeout when the hypervisor does not say in time, StateUnknown when it cannot be asked.
  [[nodiscard]] VmState state(const Deadline& deadline);
  [[nodiscard]] VmState state();
  /// Whether the hypervisor's process, this or the one before it, ran the guest once, whoever started it.
  [[nodiscard]] bool was_started() const;
  /// How the hypervisor ended, waiting up to `timeout` for it.
  [[nodiscard]] std::optional<VmExit> wait_exit(std::chrono::milliseconds timeout);
  /// Remembers, for this process and others, that the hypervisor's end was asked for.
  void mark_asked() noexcept;
  /// What stop() is about to end it by: 0 is the guest's own power-off. For how wait_exit() tells of it.
  void mark_ended_by(int signal) { ended_by_ = signal; }
  void signal(int number) { supervisor_->signal(program_.process, number); }

 protected:
  /// A living hypervisor answers in milliseconds, but on a crowded host it may not be scheduled for seconds.
  static constexpr std::chrono::seconds kAnswerTime{20};

  /// The state of a hypervisor whose process runs. A std::system_error that says that nobody listens means Starting, until the
  /// guest runs.
  [[nodiscard]] virtual VmState running_state(const Deadline& deadline) = 0;
  /// Puts the end in words and judges whether somebody asked for it. `asked`: we were.
  [[nodiscard]] virtual VmExit judge(const SupervisedExit& exit, bool asked) = 0;

  [[nodiscard]] Owner owner() const { return owner_; }
  /// Starts the companions, then the process, whose command line is put down in the VM's folder, and runs `connect`, which
  /// returns when the guest runs. When that throws, all of them end; if one had ended by itself, its last words are the error.
  void spawn(SupervisedProcess process, const std::vector<Companion>& companions, const std::function<void()>& connect);
  void spawn(SupervisedProcess process, const std::function<void()>& connect) { spawn(std::move(process), {}, connect); }
  /// Ends the process by `end` in order to continue in another one, which `go_on` spawns: until then nobody is told of an end.
  /// When either throws, the VM is what its process is. Throws Timeout when the first one does not end.
  void continue_in_another_process(const std::function<void()>& end, const std::function<void()>& go_on);
  /// Starts a second process beside the first, and ends the first by `end_first` once `move` has brought the guest over: nobody
  /// is told of an end. `move` is given what waits for the second process as await_up() does. When `move` throws, the second
  /// process ends and the VM is what the first one is; if it had ended by itself, its last words are the error.
  using AwaitUp = std::function<void(const std::function<bool()>& is_up)>;
  void move_to_second_process(SupervisedProcess second, const std::function<void(const AwaitUp& await_up)>& move,
                              const std::function<void()>& end_first);
  /// Asks until the process is up, as long as it lives. That nobody listens yet, as a std::system_error says, means no.
  void await_up(const std::function<bool()>& is_up);

 private:
  /// Readable when the hypervisor has ended; none when it was never started or is gone for good. Waiting on it holds up nobody,
  /// while waiting for the supervisor's word would hold up other threads' requests to it.
  std::shared_ptr<FileDescriptor> process();
  void await(const std::function<bool()>& is_up, const std::function<bool()>& has_ended) const;
  void forget_asked();
  void mark_started() noexcept;
  void forget_started();
  /// In a handler: ends a process that did not do what was expected. Throws its last words if it had ended by itself, else what
  /// is being handled, a Timeout with its last words.
  [[noreturn]] void give_up(const std::string& process, const std::string& when);
  void start_companion(const Companion& companion);
  /// Ends those that are left of an earlier start, or of a failed one.
  void end_companions(const std::vector<Companion>& companions);
  [[nodiscard]] std::filesystem::path asked_file() const { return handle_.work_dir / "stop-asked"; }
  [[nodiscard]] std::filesystem::path started_file() const { return handle_.work_dir / "started"; }
  [[nodiscard]] VmState ended_state(std::chrono::milliseconds timeout, VmState otherwise);

  const VmHandle handle_;
  const std::shared_ptr<SupervisorConnection> supervisor_;
  const Owner owner_;
  const Program program_;
  std::mutex order_;
  std::atomic<bool> asked_ = false;
  static constexpr int kNobody = -1;
  std::atomic<int> ended_by_ = kNobody;
  /// The process is ending or has ended, and another one is about to take its place.
  std::atomic<bool> continues_ = false;
  /// What the VM is then.
  std::atomic<VmState> meanwhile_ = VmState::Suspended;
  mutable std::mutex mutex_;
  /// Of the last spawn(). Guarded by mutex_.
  std::vector<Step> start_steps_;
  /// Guarded by mutex_. Shared with calls that are under way when the hypervisor is started anew.
  std::shared_ptr<FileDescriptor> process_;
};

}  // namespace vmtest
