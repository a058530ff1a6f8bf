#include "qemu_machine.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "platform.h"
#include "qemu_command_line.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

constexpr const char* kProcess = "qemu";
/// QEMU answers its monitor in milliseconds, but on a crowded host its main loop may not be scheduled for seconds.
constexpr std::chrono::seconds kQmpTime{20};
/// Exec to greeting takes 40 ms; loading from a cold disk on a crowded host takes longest.
constexpr std::chrono::seconds kLaunchTime{60};
/// Between two tries to connect to a starting QEMU; its end wakes us at once.
constexpr std::chrono::milliseconds kLaunchPoll{2};
/// A closed monitor means that QEMU is ending: its exit status follows.
constexpr std::chrono::seconds kExitReportTime{5};

std::string package_of(Architecture architecture) {
  return architecture == Architecture::X86_64 ? "qemu-system-x86" : "qemu-system-arm";
}

/// Nobody listens on a Unix socket (yet).
bool is_absent(const std::system_error& error) { return error.code().value() == ENOENT || error.code().value() == ECONNREFUSED; }

}  // namespace

VmExit judge_ending(const QemuEnding& ending) {
  VmExit exit;
  exit.last_words = ending.last_words;
  exit.how = "QEMU ended with " + to_string(ending.status);
  if (ending.asked) {
    exit.orderly = true;
    exit.how = "QEMU was stopped as asked (" + to_string(ending.status) + ")";
  } else if (!ending.status.ok()) {
    exit.orderly = false;
  } else if (ending.reason == "guest-shutdown") {
    exit.orderly = true;
    exit.how = "the guest powered off";
  } else if (ending.reason == "guest-reset") {
    exit.how = "the guest reset itself, and the VM may not reboot";
  } else if (ending.reason == "guest-panic") {
    exit.how = "the guest's kernel panicked";
  } else if (ending.reason == "host-signal" || ending.last_words.find("terminating on signal") != std::string::npos) {
    exit.how = "QEMU was ended by a signal from outside";
  } else {
    exit.orderly = true;  // asked by its monitor, or a guest's power-off of which only the status is known
  }
  return exit;
}

VmState state_of_run_state(const std::string& run_state) {
  if (run_state == "running" || run_state == "suspended") return VmState::Running;  // a guest in S3 sleep runs for us
  if (run_state == "inmigrate" || run_state == "prelaunch") return VmState::Starting;
  if (run_state == "shutdown") return VmState::Stopped;
  if (run_state == "internal-error" || run_state == "io-error" || run_state == "guest-panicked" || run_state == "watchdog") {
    return VmState::Failed;
  }
  return VmState::Suspended;  // paused, postmigrate, finish-migrate, save-vm, restore-vm, debug, colo
}

QemuDriver::Machine::Machine(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner)
    : handle_(std::move(handle)), supervisor_(std::move(supervisor)), owner_(owner) {}

VmState QemuDriver::Machine::state() { return state(Deadline::after(kQmpTime)); }

VmState QemuDriver::Machine::state(const Deadline& deadline) {
  const auto processes = supervisor_->status().processes;
  if (processes.count(kProcess) == 0) {
    const auto exit = wait_exit(std::chrono::milliseconds(0));
    if (!exit) return VmState::Prepared;
    return exit->orderly ? VmState::Stopped : VmState::Failed;
  }
  try {
    return state_of_run_state(execute("query-status", deadline).at("status"));
  } catch (const std::system_error& error) {
    if (is_absent(error)) return VmState::Starting;
    throw;
  } catch (const Timeout&) {
    throw;
  } catch (const Error&) {
    // It ended between our two questions.
    const auto exit = wait_exit(kExitReportTime);
    if (!exit) throw;
    return exit->orderly ? VmState::Stopped : VmState::Failed;
  }
}

void QemuDriver::Machine::launch(const MachineConfig& config) {
  const std::string program = qemu_program(config.architecture);
  const auto found = find_program(program);
  if (!found) {
    throw Error(program + " is not in PATH; get it with: apt-get install " + package_of(config.architecture));
  }
  SupervisedProcess process;
  process.name = kProcess;
  process.argv = qemu_command_line(config, {*found, handle_.name, handle_.work_dir, handle_.runtime_dir, handle_.ssh_port});
  process.log_file = "qemu.log";
  const auto taps =
      std::count_if(config.nics.begin(), config.nics.end(), [](const NicConfig& nic) { return nic.kind == NicKind::Tap; });
  for (int i = 0; i < taps; ++i) process.descriptors.emplace_back("tap" + std::to_string(i), kFirstTapDescriptor + i);
  write_file(handle_.work_dir / "command_line.txt", format_command(process.argv) + "\n", 0600);

  drop_qmp();
  forget_asked();
  const pid_t pid = supervisor_->spawn(process);
  {
    const std::lock_guard lock(mutex_);
    process_ = std::make_shared<FileDescriptor>(supervisor::try_open_pidfd(pid));
  }
  try {
    const std::shared_ptr<QmpClient> connected = connect_started();
    if (!config.restore_from.empty()) restore(*connected, config.restore_from);
    const std::string run_state = connected->execute("query-status", Deadline::after(kQmpTime)).at("status");
    if (state_of_run_state(run_state) != VmState::Running) throw Error("QEMU started, but its guest is " + run_state);
    const std::lock_guard lock(mutex_);
    if (owner_ == Owner::Us) qmp_ = connected;
  } catch (const Error& error) {
    // Most of the time QEMU ended with a complaint about its command line, and that is the story.
    supervisor_->signal(kProcess, SIGKILL);
    const auto exit = supervisor_->wait_exit(kProcess, kExitReportTime);
    if (!exit || exit->status.signal == SIGKILL) throw;
    throw Error("QEMU ended at its start with " + to_string(exit->status) + (exit->last_words.empty() ? "" : ", saying:\n") +
                indent(sanitize_console(exit->last_words), "  "));
  }
}

std::shared_ptr<QmpClient> QemuDriver::Machine::connect_started() {
  const fs::path socket = handle_.runtime_dir / (owner_ == Owner::Us ? kQmpSocket : kQmpCliSocket);
  const Deadline deadline = Deadline::after(kLaunchTime);
  for (;;) {
    try {
      return QmpClient::connect(socket, deadline);
    } catch (const std::system_error& error) {
      if (!is_absent(error)) throw Error("cannot connect to QEMU's monitor: " + std::string(error.what()));
    }
    if (wait_exit(kLaunchPoll)) throw Error("QEMU ended at its start");
    if (deadline.expired()) throw Timeout("QEMU did not open its monitor within " + std::to_string(kLaunchTime.count()) + " s");
  }
}

nlohmann::json QemuDriver::Machine::execute(const std::string& command) { return execute(command, Deadline::after(kQmpTime)); }

nlohmann::json QemuDriver::Machine::execute(const std::string& command, const Deadline& deadline) {
  return qmp(deadline)->execute(command, deadline);
}

std::shared_ptr<QmpClient> QemuDriver::Machine::qmp(const Deadline& deadline) {
  const std::lock_guard lock(mutex_);
  if (!qmp_) qmp_ = QmpClient::connect(handle_.runtime_dir / (owner_ == Owner::Us ? kQmpSocket : kQmpCliSocket), deadline);
  return qmp_;
}

std::shared_ptr<FileDescriptor> QemuDriver::Machine::process() {
  std::shared_ptr<FileDescriptor> known;
  {
    const std::lock_guard lock(mutex_);
    known = process_;
  }
  if (!known && owner_ == Owner::Somebody) {
    const auto processes = supervisor_->status().processes;
    const auto running = processes.find(kProcess);
    if (running == processes.end()) return nullptr;
    known = std::make_shared<FileDescriptor>(supervisor::try_open_pidfd(running->second));
    const std::lock_guard lock(mutex_);
    process_ = known;
  }
  return known && known->valid() ? known : nullptr;
}

void QemuDriver::Machine::drop_qmp() {
  const std::lock_guard lock(mutex_);
  qmp_.reset();
}

std::optional<VmExit> QemuDriver::Machine::wait_exit(std::chrono::milliseconds timeout) {
  const auto running = process();
  if (running && !wait_readable(running->get(), Deadline::after(timeout))) return std::nullopt;
  // Once it has ended, the supervisor's report is on its way.
  const auto exit =
      supervisor_->wait_exit(kProcess, running ? std::max<std::chrono::milliseconds>(timeout, kExitReportTime) : timeout);
  if (!exit) return std::nullopt;
  QemuEnding ending;
  ending.status = exit->status;
  ending.last_words = exit->last_words;
  std::error_code ignored;
  ending.asked = asked_ || fs::exists(asked_file(), ignored);
  std::shared_ptr<QmpClient> heard;
  {
    const std::lock_guard lock(mutex_);
    heard = qmp_;
  }
  if (heard) {
    heard->read_pending();
    if (const auto event = heard->find_event("SHUTDOWN")) ending.reason = event->data.value("reason", "");
  }
  return judge_ending(ending);
}

void QemuDriver::Machine::mark_asked() noexcept {
  asked_ = true;
  try {
    write_file(asked_file(), "", 0600);
  } catch (const std::exception&) {  // a full disk must not keep a VM from being stopped
  }
}

void QemuDriver::Machine::forget_asked() {
  asked_ = false;
  std::error_code ignored;
  fs::remove(asked_file(), ignored);
}

}  // namespace vmtest
