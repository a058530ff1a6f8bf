#include "vmtest/supervised_driver.h"

#include <signal.h>

#include <algorithm>
#include <utility>

#include "network/neighbours.h"
#include "state_rules.h"
#include "supervised/host_side.h"
#include "supervised/supervised_vm.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

/// How long a killed hypervisor may take to be gone: milliseconds, unless the kernel has gigabytes to give back on a busy host.
constexpr std::chrono::seconds kKillTime{10};
/// A hypervisor tells its state within milliseconds, and ends within some ten of a SIGTERM; it gets this share of the time to
/// stop for each, and no more than the limit for the latter.
constexpr int kShare = 5;
constexpr std::chrono::milliseconds kLongestTermTime{3000};
/// Socket paths end at 108 bytes, so the folder's name is short; ten digits do not meet twice among living VMs.
constexpr std::size_t kFolderDigits = 10;

/// A hypervisor that has no time to answer, makes no sense, or claims to be starting when it did start, runs all the same:
/// signals will do.
VmState state_for_stop(SupervisedVm& vm, const Deadline& deadline) {
  try {
    const VmState now = vm.state(deadline);
    return now == VmState::Starting && vm.was_started() ? VmState::Running : now;
  } catch (const std::exception&) {
    return VmState::Running;
  }
}

}  // namespace

SupervisedDriver::SupervisedDriver(DriverKind kind) : kind_(kind) {}
SupervisedDriver::~SupervisedDriver() = default;

std::shared_ptr<SupervisedVm> SupervisedDriver::find(const VmHandle& vm) const {
  require_kind(vm, kind_);
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = vms_.find(vm.id); found != vms_.end()) return found->second;
  }
  std::error_code ignored;
  if (!fs::exists(vm.supervisor_socket(), ignored)) return nullptr;
  try {
    return make_vm(vm, SupervisorConnection::connect(vm.supervisor_socket()), Owner::Somebody);
  } catch (const Timeout&) {
    throw;
  } catch (const std::exception&) {
    return nullptr;  // it ended at this moment
  }
}

std::shared_ptr<SupervisedVm> SupervisedDriver::require(const VmHandle& vm, const char* wanted) const {
  auto found = find(vm);
  if (!found) throw Error("VM \"" + vm.name + "\" cannot " + wanted + ": it is destroyed");
  return found;
}

VmHandle SupervisedDriver::prepare(const PrepareRequest& request) {
  require_name(request.name, "VM");
  return with_context("cannot prepare VM \"" + request.name + "\"", [&] {
    VmHandle vm;
    vm.runtime_dir = runtime_dir() / random_hex(kFolderDigits);
    require_socket_path(vm.runtime_dir / longest_socket());
    const HostSide side = take_host_side(request);
    vm.id = std::string(to_string(kind_)) + "-" + random_uuid();
    vm.name = request.name;
    vm.driver = kind_;
    vm.work_dir = (request.vms_dir.empty() ? data_dir() / "vms" : fs::absolute(request.vms_dir)) / request.name;
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
    vms_[vm.id] = make_vm(vm, std::move(supervisor), Owner::Us);
    return vm;
  });
}

VmHandle SupervisedDriver::start(const VmHandle& vm, const MachineConfig& machine) {
  const auto target = require(vm, "start");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Prepared, VmState::Stopped}, "start");
  MachineConfig complete = machine;
  if (!complete.nics.empty() && complete.nics.front().mac_address.empty()) complete.nics.front().mac_address = vm.mac_address;
  with_context("cannot start VM \"" + vm.name + "\"", [&] { target->launch(complete); });
  return vm;
}

std::vector<Step> SupervisedDriver::start_steps(const VmHandle& vm) const {
  std::shared_ptr<SupervisedVm> owned;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = vms_.find(vm.id); found != vms_.end()) owned = found->second;
  }
  return owned ? owned->start_steps() : std::vector<Step>{};
}

VmHandle SupervisedDriver::stop(const VmHandle& vm, std::chrono::milliseconds timeout) {
  timeout = std::max(timeout, std::chrono::milliseconds(0));
  const Deadline deadline = Deadline::after(timeout);
  const auto target = require(vm, "stop");
  const std::lock_guard lock(target->order());
  const VmState before = state_for_stop(*target, Deadline::after(timeout / kShare));
  require_state(target->handle(), before, {VmState::Running, VmState::Suspended, VmState::Failed}, "stop");
  target->mark_asked();
  const auto term_time = std::min(kLongestTermTime, timeout / kShare);
  const Deadline term = Deadline::at(deadline.time_point() - term_time);
  const auto ended_by = [&](const Deadline& moment) { return target->wait_exit(moment.remaining()).has_value(); };

  bool ended = target->wait_exit(std::chrono::milliseconds(0)).has_value();
  if (!ended && before != VmState::Failed && timeout > std::chrono::milliseconds(0)) {
    bool pressed = false;
    try {
      pressed = target->press_power_button(before, term);
    } catch (const std::exception&) {  // a hypervisor that does not listen gets the signals
    }
    if (pressed) {
      target->mark_ended_by(0);
      ended = ended_by(term);
    }
  }
  if (!ended && timeout > std::chrono::milliseconds(0)) {
    target->mark_ended_by(SIGTERM);
    target->signal(SIGTERM);
    ended = ended_by(deadline);
  }
  if (!ended) {
    target->mark_ended_by(SIGKILL);
    target->signal(SIGKILL);
    if (!target->wait_exit(kKillTime)) {
      throw Timeout("the hypervisor of VM \"" + vm.name + "\" does not end, not even by SIGKILL");
    }
  }
  return vm;
}

VmHandle SupervisedDriver::suspend(const VmHandle& vm) {
  const auto target = require(vm, "suspend");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "suspend");
  with_context("cannot suspend VM \"" + vm.name + "\"", [&] { target->suspend(); });
  return vm;
}

VmHandle SupervisedDriver::resume(const VmHandle& vm) {
  const auto target = require(vm, "resume");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Suspended}, "resume");
  with_context("cannot resume VM \"" + vm.name + "\"", [&] { target->resume(); });
  return vm;
}

void SupervisedDriver::destroy(const VmHandle& vm) {
  const auto target = find(vm);
  if (target) target->supervisor().end();
  {
    const std::lock_guard lock(mutex_);
    vms_.erase(vm.id);
  }
  // Only when the supervisor died before its time is anything left.
  if (owns_its_folder(vm)) {
    std::error_code ignored;
    fs::remove_all(vm.runtime_dir, ignored);
    fs::remove_all(vm.work_dir, ignored);
  }
  if (!target) return;
  if (const std::string left = left_behind(vm); !left.empty())
    throw Error("VM \"" + vm.name + "\" is destroyed, but what it did to the host could not all be taken back: " + left);
}

VmState SupervisedDriver::state(const VmHandle& vm) {
  if (const auto target = find(vm)) {
    try {
      return target->state();
    } catch (const Timeout&) {
      throw;
    } catch (const StateUnknown&) {
      throw;  // what lives has not failed
    } catch (const std::exception&) {
      // The supervisor answers as long as there is a VM.
    }
  }
  return owns_its_folder(vm) ? VmState::Failed : VmState::Destroyed;
}

std::string SupervisedDriver::guest_ip(const VmHandle& vm) {
  require_kind(vm, kind_);
  if (vm.ssh_port != 0) return "127.0.0.1";
  if (!vm.static_address.empty()) return vm.static_address.substr(0, vm.static_address.find('/'));
  if (auto found = find_address_of(vm.mac_address)) return *found;
  throw Error("the address of VM \"" + vm.name + "\" is not known yet: no neighbour and no lease of this host has MAC " +
              vm.mac_address);
}

std::optional<VmExit> SupervisedDriver::wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) {
  const auto target = find(vm);
  if (!target) return VmExit{"the VM was destroyed", "", true};
  try {
    return target->wait_exit(timeout);
  } catch (const std::exception& error) {
    return VmExit{error.what(), "", false};
  }
}

}  // namespace vmtest
