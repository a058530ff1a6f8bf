#include "vmtest/vm_handle.h"

#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>

#include "vmtest/error.h"

namespace vmtest {
namespace {

using nlohmann::json;

/// Raised when a reader of the old form would misunderstand the new one; new fields alone do not need it.
constexpr int kHandleFormat = 1;
/// The first there was; raised when this library no longer reads it.
constexpr int kOldestHandleFormat = 1;

constexpr std::array kDriverKinds = {
    DriverKind::Noop, DriverKind::Qemu,    DriverKind::CloudHypervisor, DriverKind::CloudHypervisorCli,
    DriverKind::Vz,   DriverKind::Propolis};
constexpr std::size_t kStates = static_cast<std::size_t>(VmState::Destroyed) + 1;

/// Rows: from; columns: to, both in the order of VmState. Any state may end in Failed or Destroyed but Destroyed itself.
// clang-format off
constexpr bool kMayChange[kStates][kStates] = {
    //               Preparing Prepared Starting Running Ready  Suspended Stopped Failed Destroyed
    /* Preparing */ {false,    true,    false,   false,  false, false,    false,  true,  true},
    /* Prepared  */ {false,    false,   true,    false,  false, false,    false,  true,  true},
    /* Starting  */ {false,    false,   false,   true,   false, false,    true,   true,  true},
    /* Running   */ {false,    false,   false,   false,  true,  true,     true,   true,  true},
    /* Ready     */ {false,    false,   false,   true,   false, true,     true,   true,  true},
    /* Suspended */ {false,    false,   false,   true,   true,  false,    true,   true,  true},
    /* Stopped   */ {false,    false,   true,    false,  false, false,    false,  true,  true},
    /* Failed    */ {false,    false,   false,   false,  false, false,    true,   false, true},
    /* Destroyed */ {false,    false,   false,   false,  false, false,    false,  false, false},
};
// clang-format on

}  // namespace

std::string_view to_string(DriverKind kind) {
  switch (kind) {
    case DriverKind::Noop:
      return "noop";
    case DriverKind::Qemu:
      return "qemu";
    case DriverKind::CloudHypervisor:
      return "cloud-hypervisor";
    case DriverKind::CloudHypervisorCli:
      return "cloud-hypervisor-cli";
    case DriverKind::Vz:
      return "vz";
    case DriverKind::Propolis:
      return "propolis";
  }
  return "?";
}

std::optional<DriverKind> parse_driver_kind(std::string_view text) {
  for (const DriverKind kind : kDriverKinds) {
    if (to_string(kind) == text) return kind;
  }
  return std::nullopt;
}

std::string_view to_string(VmState state) {
  switch (state) {
    case VmState::Preparing:
      return "preparing";
    case VmState::Prepared:
      return "prepared";
    case VmState::Starting:
      return "starting";
    case VmState::Running:
      return "running";
    case VmState::Ready:
      return "ready";
    case VmState::Suspended:
      return "suspended";
    case VmState::Stopped:
      return "stopped";
    case VmState::Failed:
      return "failed";
    case VmState::Destroyed:
      return "destroyed";
  }
  return "?";
}

bool may_change(VmState from, VmState to) { return kMayChange[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)]; }

std::string to_json(const VmHandle& vm) {
  const json object = {
      {"format", kHandleFormat},
      {"id", vm.id},
      {"name", vm.name},
      {"driver", to_string(vm.driver)},
      {"work_dir", vm.work_dir.string()},
      {"runtime_dir", vm.runtime_dir.string()},
      {"supervisor_pid", vm.supervisor_pid},
      {"supervisor_start_time", vm.supervisor_start_time},
      {"ssh_port", vm.ssh_port},
      {"mac_address", vm.mac_address},
      {"static_address", vm.static_address},
      {"gateway", vm.gateway},
  };
  return object.dump(2) + "\n";
}

VmHandle parse_vm_handle(std::string_view text) {
  const json object = json::parse(text, nullptr, false);
  if (!object.is_object() || !object.contains("format")) throw Error("this is no handle of a VM");
  try {
    const int format = object.at("format");
    if (format > kHandleFormat || format < kOldestHandleFormat) {
      const bool newer = format > kHandleFormat;
      throw Error("the handle is of format " + std::to_string(format) + ", " + (newer ? "newer" : "older") +
                  " than this library knows (" + std::to_string(newer ? kHandleFormat : kOldestHandleFormat) +
                  "); use the version of vmtest that made it");
    }
    VmHandle vm;
    vm.id = object.value("id", vm.id);
    vm.name = object.value("name", vm.name);
    const std::string driver = object.value("driver", std::string(to_string(vm.driver)));
    const auto kind = parse_driver_kind(driver);
    if (!kind) throw Error("the handle is for a driver this library does not know: \"" + driver + "\"");
    vm.driver = *kind;
    vm.work_dir = object.value("work_dir", std::string());
    vm.runtime_dir = object.value("runtime_dir", std::string());
    vm.supervisor_pid = object.value("supervisor_pid", vm.supervisor_pid);
    vm.supervisor_start_time = object.value("supervisor_start_time", vm.supervisor_start_time);
    const long port = object.value("ssh_port", 0L);
    if (port < 0 || port > 65535) throw Error("the handle names port " + std::to_string(port) + ", which does not exist");
    vm.ssh_port = static_cast<std::uint16_t>(port);
    vm.mac_address = object.value("mac_address", vm.mac_address);
    vm.static_address = object.value("static_address", vm.static_address);
    vm.gateway = object.value("gateway", vm.gateway);
    return vm;
  } catch (const json::exception& error) {
    throw Error(std::string("this is no handle of a VM: ") + error.what());
  }
}

}  // namespace vmtest
