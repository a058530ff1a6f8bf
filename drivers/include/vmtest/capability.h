#pragma once

#include <span>
#include <string>
#include <string_view>

namespace vmtest {

// A line per group of the matrix.
// clang-format off
/// One value per row of the capability matrix: what a hypervisor can be asked to do.
enum class Capability {
  // life cycle
  Boot, StopGraceful, Kill, QueryState, Reboot, Delete,
  // CPU
  VcpuCount, CpuHotplug, CpuTopology, CpuAffinity,
  // memory
  MemorySize, MemoryBalloon, MemoryHotplug, HugePages, MemoryZones,
  // storage
  RootDisk, SeedIso, DataDisk, DiskHotplug, DiskResize, DiskClone, DiskCacheModes, DiskRateLimit,
  // networking
  Nat, Tap, SocketPair, CustomMac, NetworkHotplug, BridgedNetwork, VhostUserNet,
  // shared directories
  VirtioFs, ReadOnlyShare,
  // serial console
  SerialFile, ReadinessMarker,
  // entropy
  Entropy,
  // advanced
  PauseResume, Snapshot, Restore, LiveMigration, Counters,
  // device passthrough
  Vfio, Vdpa,
  // inter-VM communication
  Vsock, L2Switch,
  // platform specific
  Rosetta, MacOsGuest, UefiBoot, Tpm, Watchdog, Graphics, Audio,
};
// clang-format on

/// All of them, in the matrix's order.
[[nodiscard]] std::span<const Capability> all_capabilities();
/// The matrix's name of the row: "CPU hotplug".
[[nodiscard]] std::string_view to_string(Capability capability);

/// Whether a driver does something here.
struct Support {
  enum class Kind {
    /// It works, and a test proves it.
    Supported,
    /// The hypervisor offers it, but this host lacks something, which `why` names.
    NeedsHost,
    /// This driver does not offer it; `why` says whether the hypervisor could.
    NotOffered,
  };
  Kind kind = Kind::NotOffered;
  std::string why;

  [[nodiscard]] bool supported() const { return kind == Kind::Supported; }
};

}  // namespace vmtest
