#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "vmtest/driver.h"

namespace vmtest::contract {

/// A driver, and what the contract suite has to know to try it: everything else it learns by the interface.
struct Subject {
  /// Name of the suite's instance: "Qemu".
  std::string name;
  /// A new object, which knows the VMs of the others that this function made as far as the driver lets it.
  std::function<std::unique_ptr<Driver>()> make;
  /// The least machine that this driver starts.
  MachineConfig machine = {};
  /// How its card is connected.
  NicKind nic = NicKind::User;
  /// Whether a port of the host leads to the guest where the card is on no TAP.
  bool has_ssh_port = true;
  /// A machine whose guest prints something, and what that is. Empty: no guest does.
  MachineConfig printing = {};
  std::string greeting = {};
  /// Whether that guest prints what is typed, too.
  bool echoes = false;
  /// The address of its guests where neither a port of the host nor a network of their own leads to them; empty: it is not known
  /// before the guest is heard of.
  std::string address = {};
  /// A machine that its hypervisor refuses, and what its error then says. Empty: there is none, or nobody hears why.
  MachineConfig bad_machine = {};
  std::string refusal = {};
  /// What it says of a guest of another architecture than the host's. Empty: it runs that, too.
  std::string foreign_refusal = {};
  /// Ends a running VM's hypervisor from outside, as a crash would.
  std::function<void(Driver& driver, const VmHandle& vm)> crash;
  /// Why nothing ends it so; empty when `crash` does.
  std::string cannot_crash = {};
  /// Why a VM starts only when the one before has ended; empty when many run at once.
  std::string one_at_a_time = {};
  /// Processes of a running VM, which destroy() must end.
  std::function<std::vector<pid_t>(const VmHandle& vm)> processes = [](const VmHandle&) { return std::vector<pid_t>(); };
  /// Whether there are builds of its hypervisor that dump no memory, of which this may be one.
  bool may_lack_dumps = false;
  /// Whether a disk is taken away without asking the guest.
  bool lets_go = false;
  /// Why another process cannot use a handle; empty when it can.
  std::string only_in_process = {};
};

/// Everything the suite runs over, in this order.
[[nodiscard]] const std::vector<Subject>& subjects();

inline std::ostream& operator<<(std::ostream& stream, const Subject& subject) { return stream << subject.name; }

}  // namespace vmtest::contract
