#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace vmtest {

/// The drivers vmtest knows. A handle is tagged with one. Cloud Hypervisor has two: by its API, and by its command line alone.
enum class DriverKind { Noop, Qemu, CloudHypervisor, CloudHypervisorCli, Vz, Propolis };
[[nodiscard]] std::string_view to_string(DriverKind kind);
[[nodiscard]] std::optional<DriverKind> parse_driver_kind(std::string_view text);

/// Where a VM is in its life. One enum and one table of transitions (`may_change`) serve all drivers.
enum class VmState { Preparing, Prepared, Starting, Running, Ready, Suspended, Stopped, Failed, Destroyed };
[[nodiscard]] std::string_view to_string(VmState state);
/// Whether a VM in `from` may come to be in `to`.
[[nodiscard]] bool may_change(VmState from, VmState to);

/// Names a prepared VM and says where its parts are. A plain value: it may be copied, written to disk as JSON and used by
/// another process of the same user on the same host.
struct VmHandle {
  /// "<driver>-<uuid>"
  std::string id;
  /// The name given by the spec; unique among the VMs of this user while it lives.
  std::string name;
  DriverKind driver = DriverKind::Noop;
  /// Holds disks, seed, console log, hypervisor log. Removed by destroy().
  std::filesystem::path work_dir;
  /// Short folder that holds sockets. Removed by destroy().
  std::filesystem::path runtime_dir;
  /// The supervisor's process, and its start time in clock ticks since boot (pids are used again).
  pid_t supervisor_pid = -1;
  unsigned long long supervisor_start_time = 0;
  /// Port of the host's 127.0.0.1 that leads to the guest's port 22; 0 when there is none.
  std::uint16_t ssh_port = 0;
  std::string mac_address;
  /// Address with prefix length that the seed gives the guest when it is not by DHCP: "10.44.0.2/30".
  std::string static_address;
  /// The host's address on that network: the guest's gateway.
  std::string gateway;

  [[nodiscard]] std::filesystem::path supervisor_socket() const { return runtime_dir / "supervisor.sock"; }
  bool operator==(const VmHandle&) const = default;
};

/// JSON text of a handle, for a file. Fields that a reader does not know are ignored; missing ones take their default.
[[nodiscard]] std::string to_json(const VmHandle& vm);
/// Throws Error when `text` is no handle, or one of a newer or older format than this library knows.
[[nodiscard]] VmHandle parse_vm_handle(std::string_view text);

}  // namespace vmtest
