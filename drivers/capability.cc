#include "vmtest/capability.h"

#include <array>
#include <utility>

namespace vmtest {
namespace {

constexpr std::array kRows = {
    std::pair{Capability::Boot, std::string_view("Boot VM")},
    std::pair{Capability::StopGraceful, std::string_view("Stop (graceful)")},
    std::pair{Capability::Kill, std::string_view("Kill (force)")},
    std::pair{Capability::QueryState, std::string_view("Query state")},
    std::pair{Capability::Reboot, std::string_view("Reboot")},
    std::pair{Capability::Delete, std::string_view("Delete/cleanup")},
    std::pair{Capability::VcpuCount, std::string_view("Set vCPU count")},
    std::pair{Capability::CpuHotplug, std::string_view("CPU hotplug")},
    std::pair{Capability::CpuTopology, std::string_view("CPU topology")},
    std::pair{Capability::CpuAffinity, std::string_view("CPU affinity")},
    std::pair{Capability::MemorySize, std::string_view("Set memory size")},
    std::pair{Capability::MemoryBalloon, std::string_view("Memory balloon")},
    std::pair{Capability::MemoryHotplug, std::string_view("Memory hotplug")},
    std::pair{Capability::HugePages, std::string_view("Hugepages")},
    std::pair{Capability::MemoryZones, std::string_view("Memory zones (NUMA)")},
    std::pair{Capability::RootDisk, std::string_view("Root disk")},
    std::pair{Capability::SeedIso, std::string_view("Seed ISO (cloud-init)")},
    std::pair{Capability::DataDisk, std::string_view("Data disk")},
    std::pair{Capability::DiskHotplug, std::string_view("Disk hotplug")},
    std::pair{Capability::DiskResize, std::string_view("Disk resize")},
    std::pair{Capability::DiskClone, std::string_view("Disk CoW clone")},
    std::pair{Capability::DiskCacheModes, std::string_view("Disk caching modes")},
    std::pair{Capability::DiskRateLimit, std::string_view("Disk rate limiting")},
    std::pair{Capability::Nat, std::string_view("NAT (internet access)")},
    std::pair{Capability::Tap, std::string_view("TAP devices")},
    std::pair{Capability::SocketPair, std::string_view("Socketpair (L2 switch)")},
    std::pair{Capability::CustomMac, std::string_view("Custom MAC address")},
    std::pair{Capability::NetworkHotplug, std::string_view("Network hotplug")},
    std::pair{Capability::BridgedNetwork, std::string_view("Bridged networking")},
    std::pair{Capability::VhostUserNet, std::string_view("vhost-user net")},
    std::pair{Capability::VirtioFs, std::string_view("VirtioFS")},
    std::pair{Capability::ReadOnlyShare, std::string_view("Read-only mounts")},
    std::pair{Capability::SerialFile, std::string_view("File output")},
    std::pair{Capability::ReadinessMarker, std::string_view("Readiness detection")},
    std::pair{Capability::Entropy, std::string_view("VirtIO RNG")},
    std::pair{Capability::PauseResume, std::string_view("Pause / Resume")},
    std::pair{Capability::Snapshot, std::string_view("Snapshot")},
    std::pair{Capability::Restore, std::string_view("Restore")},
    std::pair{Capability::LiveMigration, std::string_view("Live migration")},
    std::pair{Capability::Counters, std::string_view("VM counters/metrics")},
    std::pair{Capability::Vfio, std::string_view("VFIO (GPU, NIC, etc.)")},
    std::pair{Capability::Vdpa, std::string_view("vDPA")},
    std::pair{Capability::Vsock, std::string_view("vsock")},
    std::pair{Capability::L2Switch, std::string_view("L2 switch (userspace)")},
    std::pair{Capability::Rosetta, std::string_view("Rosetta (x86 on ARM)")},
    std::pair{Capability::MacOsGuest, std::string_view("macOS guest boot")},
    std::pair{Capability::UefiBoot, std::string_view("UEFI boot")},
    std::pair{Capability::Tpm, std::string_view("TPM")},
    std::pair{Capability::Watchdog, std::string_view("Watchdog")},
    std::pair{Capability::Graphics, std::string_view("Graphics/Display")},
    std::pair{Capability::Audio, std::string_view("Audio")},
};

constexpr auto kAll = [] {
  std::array<Capability, kRows.size()> all{};
  for (std::size_t i = 0; i < kRows.size(); ++i) all[i] = kRows[i].first;
  return all;
}();
static_assert(kRows.size() == static_cast<std::size_t>(Capability::Audio) + 1, "one row per capability");

}  // namespace

std::span<const Capability> all_capabilities() { return kAll; }

std::string_view to_string(Capability capability) {
  for (const auto& [value, name] : kRows) {
    if (value == capability) return name;
  }
  return "?";
}

}  // namespace vmtest
