#include "qemu_vm.h"

#include <utility>

#include "supervised/host_side.h"
#include "vmtest/error.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"

namespace vmtest {
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

QemuVm::QemuVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner)
    : SupervisedVm(std::move(handle), std::move(supervisor), owner, {"qemu", "QEMU"}) {}

SupervisedProcess QemuVm::describe(const MachineConfig& machine, QemuPaths paths) const {
  const std::string program = qemu_program(machine.architecture);
  const auto found = find_program(program);
  if (!found) {
    throw Error(program + " is not in PATH; get it with: apt-get install " + qemu_package(machine.architecture));
  }
  paths.program = *found;
  paths.vm_name = handle().name;
  SupervisedProcess process;
  process.argv = qemu_command_line(machine, paths);
  process.log_file = "qemu.log";
  int number = 0;
  int first_ones = 0;
  for (const NicConfig& nic : machine.nics) {
    if (nic.kind != NicKind::Tap) continue;
    const std::string name = nic.hotplug_port ? held_tap(nic) : "tap" + std::to_string(first_ones++);
    process.descriptors.emplace_back(name, kFirstTapDescriptor + number++);
  }
  return process;
}

void QemuVm::launch(const MachineConfig& config) {
  const std::vector<Companion> companions = companions_of(config, handle().work_dir, handle().runtime_dir);
  SupervisedProcess process =
      describe(config, {.work_dir = handle().work_dir, .runtime_dir = handle().runtime_dir, .ssh_port = handle().ssh_port});
  {
    const std::lock_guard lock(mutex_);
    qmp_.reset();
  }
  spawn(std::move(process), companions, [&] {
    std::shared_ptr<QmpClient> connected;
    await_up([&] {
      connected = QmpClient::connect(monitor_socket(), Deadline::after(kAnswerTime));
      return true;
    });
    if (!config.restore_from.empty()) restore(*connected, config.restore_from);
    const std::string run_state = connected->execute("query-status", Deadline::after(kAnswerTime)).at("status");
    if (state_of_run_state(run_state) != VmState::Running) throw Error("QEMU started, but its guest is " + run_state);
    const std::lock_guard lock(mutex_);
    if (owner() == Owner::Us) qmp_ = connected;
  });
}

bool QemuVm::press_power_button(VmState now, const Deadline& deadline) {
  const auto qemu = qmp(deadline);
  // A suspended guest hears no power button.
  if (now == VmState::Suspended) qemu->execute("cont", deadline);
  qemu->execute("system_powerdown", deadline);
  return true;
}

VmState QemuVm::running_state(const Deadline& deadline) {
  return state_of_run_state(qmp(deadline)->execute("query-status", deadline).at("status"));
}

VmExit QemuVm::judge(const SupervisedExit& exit, bool asked) {
  QemuEnding ending;
  ending.status = exit.status;
  ending.last_words = exit.last_words;
  ending.asked = asked;
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

nlohmann::json QemuVm::execute(const std::string& command) {
  const Deadline deadline = Deadline::after(kAnswerTime);
  return qmp(deadline)->execute(command, deadline);
}

std::shared_ptr<QmpClient> QemuVm::qmp(const Deadline& deadline) {
  const std::lock_guard lock(mutex_);
  if (!qmp_) qmp_ = QmpClient::connect(monitor_socket(), deadline);
  return qmp_;
}

std::filesystem::path QemuVm::monitor_socket() const {
  return handle().runtime_dir / (owner() == Owner::Us ? kQmpSocket : kQmpCliSocket);
}

}  // namespace vmtest
