#include "vmtest/qemu_driver.h"

#include <signal.h>

#include <algorithm>
#include <utility>

#include "neighbours.h"
#include "ports.h"
#include "qemu_command_line.h"
#include "qemu_machine.h"
#include "state_rules.h"
#include "tap.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

/// How long a killed QEMU may take to be gone: milliseconds, unless the kernel has gigabytes to give back on a busy host.
constexpr std::chrono::seconds kKillTime{10};
/// QEMU ends within some ten milliseconds of a SIGTERM; it gets this share of the time to stop, and no more than the limit.
constexpr int kTermShare = 5;
constexpr std::chrono::milliseconds kLongestTermTime{3000};
/// Socket paths end at 108 bytes, so the folder's name is short; ten digits do not meet twice among living VMs.
constexpr std::size_t kFolderDigits = 10;

/// The host side of a VM's network: taken before anything else exists, given back by going out of scope.
struct HostSide {
  std::optional<LeasedPort> port;
  std::vector<TapDevice> taps;
  std::vector<Lease> subnets;
  std::string static_address;
  std::string gateway;
};

HostSide take_host_side(const PrepareRequest& request) {
  HostSide side;
  Ledger ledger;
  for (std::size_t i = 0; i < request.nics.size(); ++i) {
    const NicConfig& nic = request.nics[i];
    if (nic.kind != NicKind::Tap) {
      if (!side.port) side.port = take_ssh_port(ledger, request.name, request.ssh_port);
    } else if (!nic.tap_name.empty()) {
      side.taps.push_back(open_tap(nic.tap_name));
    } else {
      LeasedTap tap = take_tap(ledger);
      if (i == 0) {
        side.static_address = tap.subnet.guest + "/" + std::to_string(kTapPrefixLength);
        side.gateway = tap.subnet.host;
      }
      side.taps.push_back(std::move(tap.device));
      side.subnets.push_back(std::move(tap.lease));
    }
  }
  return side;
}

/// From now on the supervisor keeps them until the VM ends.
void hand_over(SupervisorConnection& supervisor, const HostSide& side, const std::vector<int>& leases) {
  for (std::size_t i = 0; i < leases.size(); ++i) supervisor.hold("lease" + std::to_string(i), leases[i]);
  if (side.port) supervisor.hold("port", side.port->lease.descriptor());
  for (std::size_t i = 0; i < side.taps.size(); ++i) supervisor.hold("tap" + std::to_string(i), side.taps[i].descriptor.get());
  for (std::size_t i = 0; i < side.subnets.size(); ++i)
    supervisor.hold("subnet" + std::to_string(i), side.subnets[i].descriptor());
}

}  // namespace

QemuDriver::QemuDriver() = default;
QemuDriver::~QemuDriver() = default;

std::optional<std::string> QemuDriver::unavailable_reason() const {
  const Architecture host = host_architecture();
  const std::string program = qemu_program(host);
  if (find_program(program)) return std::nullopt;
  return "QEMU is not installed: " + program + " is not in PATH; get it with: apt-get install " +
         (host == Architecture::X86_64 ? "qemu-system-x86" : "qemu-system-arm");
}

DiskNeeds QemuDriver::disk_needs() const { return {{DiskFormat::Qcow2, DiskFormat::Raw}, true}; }

std::shared_ptr<QemuDriver::Machine> QemuDriver::find(const VmHandle& vm) const {
  require_kind(vm, DriverKind::Qemu);
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = machines_.find(vm.id); found != machines_.end()) return found->second;
  }
  std::error_code ignored;
  if (!fs::exists(vm.supervisor_socket(), ignored)) return nullptr;
  try {
    return std::make_shared<Machine>(vm, SupervisorConnection::connect(vm.supervisor_socket()), Machine::Owner::Somebody);
  } catch (const Timeout&) {
    throw;
  } catch (const std::exception&) {
    return nullptr;  // it ended at this moment
  }
}

std::shared_ptr<QemuDriver::Machine> QemuDriver::require(const VmHandle& vm, const char* wanted) const {
  auto machine = find(vm);
  if (!machine) throw Error("VM \"" + vm.name + "\" cannot " + wanted + ": it is destroyed");
  return machine;
}

VmHandle QemuDriver::prepare(const PrepareRequest& request) {
  require_name(request.name, "VM");
  return with_context("cannot prepare VM \"" + request.name + "\"", [&] {
    const HostSide side = take_host_side(request);
    VmHandle vm;
    vm.id = "qemu-" + random_uuid();
    vm.name = request.name;
    vm.driver = DriverKind::Qemu;
    vm.work_dir = (request.vms_dir.empty() ? data_dir() / "vms" : fs::absolute(request.vms_dir)) / request.name;
    vm.runtime_dir = runtime_dir() / random_hex(kFolderDigits);
    vm.ssh_port = side.port ? side.port->port : std::uint16_t{0};
    if (!request.nics.empty()) {
      const std::string& wished = request.nics.front().mac_address;
      vm.mac_address = wished.empty() ? random_mac() : wished;
    }
    vm.static_address = side.static_address;
    vm.gateway = side.gateway;

    auto supervisor = SupervisorConnection::start({vm.name, vm.work_dir, vm.runtime_dir, request.evidence_dir});
    try {
      vm.supervisor_pid = supervisor->pid();
      vm.supervisor_start_time = supervisor->start_time();
      hand_over(*supervisor, side, request.lease_descriptors);
      write_file(vm.work_dir / "handle.json", to_json(vm), 0600);
    } catch (...) {
      supervisor->end();
      throw;
    }
    const std::lock_guard lock(mutex_);
    machines_[vm.id] = std::make_shared<Machine>(vm, std::move(supervisor), Machine::Owner::Us);
    return vm;
  });
}

VmHandle QemuDriver::start(const VmHandle& vm, const MachineConfig& machine) {
  const auto target = require(vm, "start");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Prepared, VmState::Stopped}, "start");
  MachineConfig complete = machine;
  if (!complete.nics.empty() && complete.nics.front().mac_address.empty()) complete.nics.front().mac_address = vm.mac_address;
  with_context("cannot start VM \"" + vm.name + "\"", [&] { target->launch(complete); });
  return vm;
}

VmState QemuDriver::state_for_stop(Machine& machine, const Deadline& deadline) {
  try {
    return machine.state(deadline);
  } catch (const Timeout&) {
    return VmState::Running;  // it runs, but has no time to answer, or we none to wait: signals will do
  }
}

VmHandle QemuDriver::stop(const VmHandle& vm, std::chrono::milliseconds timeout) {
  const Deadline deadline = Deadline::after(std::max(timeout, std::chrono::milliseconds(0)));
  const auto target = require(vm, "stop");
  const std::lock_guard lock(target->order());
  const VmState before = state_for_stop(*target, deadline);
  require_state(target->handle(), before, {VmState::Running, VmState::Suspended, VmState::Failed}, "stop");
  target->mark_asked();
  const auto term_time = std::min(kLongestTermTime, timeout / kTermShare);
  const auto ended_by = [&](const Deadline& moment) { return target->wait_exit(moment.remaining()).has_value(); };

  bool ended = target->wait_exit(std::chrono::milliseconds(0)).has_value();
  if (!ended && before != VmState::Failed && timeout > std::chrono::milliseconds(0)) {
    try {
      // A suspended guest hears no power button.
      if (before == VmState::Suspended) target->execute("cont", deadline);
      target->execute("system_powerdown", deadline);
    } catch (const std::exception&) {  // a QEMU that does not listen gets the signals
    }
    ended = ended_by(Deadline::at(deadline.time_point() - term_time));
  }
  if (!ended && timeout > std::chrono::milliseconds(0)) {
    target->supervisor().signal("qemu", SIGTERM);
    ended = ended_by(deadline);
  }
  if (!ended) {
    target->supervisor().signal("qemu", SIGKILL);
    if (!target->wait_exit(kKillTime)) throw Timeout("QEMU of VM \"" + vm.name + "\" does not end, not even by SIGKILL");
  }
  return vm;
}

VmHandle QemuDriver::suspend(const VmHandle& vm) {
  const auto target = require(vm, "suspend");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "suspend");
  with_context("cannot suspend VM \"" + vm.name + "\"", [&] { target->execute("stop"); });
  return vm;
}

VmHandle QemuDriver::resume(const VmHandle& vm) {
  const auto target = require(vm, "resume");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Suspended}, "resume");
  with_context("cannot resume VM \"" + vm.name + "\"", [&] { target->execute("cont"); });
  return vm;
}

void QemuDriver::destroy(const VmHandle& vm) {
  if (const auto target = find(vm)) target->supervisor().end();
  {
    const std::lock_guard lock(mutex_);
    machines_.erase(vm.id);
  }
  // Only when the supervisor died before its time is anything left.
  if (!owns_its_folder(vm)) return;
  std::error_code ignored;
  fs::remove_all(vm.runtime_dir, ignored);
  fs::remove_all(vm.work_dir, ignored);
}

VmState QemuDriver::state(const VmHandle& vm) {
  const auto target = find(vm);
  if (target) {
    try {
      return target->state();
    } catch (const Timeout&) {
      throw;
    } catch (const std::exception&) {
      // The supervisor answers as long as there is a VM.
    }
  }
  return owns_its_folder(vm) ? VmState::Failed : VmState::Destroyed;
}

std::string QemuDriver::guest_ip(const VmHandle& vm) {
  if (vm.ssh_port != 0) return "127.0.0.1";
  if (!vm.static_address.empty()) return vm.static_address.substr(0, vm.static_address.find('/'));
  if (auto found = find_address_of(vm.mac_address)) return *found;
  throw Error("the address of VM \"" + vm.name + "\" is not known yet: no neighbour and no lease of this host has MAC " +
              vm.mac_address);
}

ConsoleEndpoint QemuDriver::console_endpoint(const VmHandle& vm) const {
  return {ConsoleEndpoint::Kind::UnixSocket, (vm.runtime_dir / kConsoleSocket).string(), vm.work_dir / kConsoleLog};
}

std::optional<VmExit> QemuDriver::wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) {
  const auto target = find(vm);
  if (!target) return VmExit{"the VM was destroyed", "", true};
  try {
    return target->wait_exit(timeout);
  } catch (const std::exception& error) {
    return VmExit{error.what(), "", false};
  }
}

}  // namespace vmtest
