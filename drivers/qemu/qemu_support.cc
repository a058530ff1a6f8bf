// What this driver can do, capability by capability.

#include <filesystem>
#include <string>

#include "companions/companions.h"
#include "network/tap.h"
#include "vmtest/error.h"
#include "vmtest/qemu_driver.h"
#include "vmtest/types.h"

namespace vmtest {
namespace {

Support supported() { return {Support::Kind::Supported, ""}; }
Support needs_host(std::string why) { return {Support::Kind::NeedsHost, std::move(why)}; }
Support not_built(const std::string& by) { return {Support::Kind::NotOffered, "QEMU could, " + by + "; not built yet"}; }
Support impossible(std::string why) { return {Support::Kind::NotOffered, std::move(why)}; }

Support uefi_support() {
  const bool x86 = host_architecture() == Architecture::X86_64;
  if (std::filesystem::exists(x86 ? "/usr/share/OVMF/OVMF_CODE_4M.fd" : "/usr/share/AAVMF/AAVMF_CODE.fd")) return supported();
  return needs_host(std::string("its firmware is not installed; get it with: apt-get install ") +
                    (x86 ? "ovmf" : "qemu-efi-aarch64"));
}

}  // namespace

Support QemuDriver::support(Capability capability) const {
  switch (capability) {
    case Capability::Boot:
    case Capability::StopGraceful:
    case Capability::Kill:
    case Capability::QueryState:
    case Capability::Reboot:
    case Capability::Delete:
    case Capability::VcpuCount:
    case Capability::MemorySize:
    case Capability::RootDisk:
    case Capability::SeedIso:
    case Capability::DataDisk:
    case Capability::DiskClone:
    case Capability::Nat:
    case Capability::CustomMac:
    case Capability::SerialFile:
    case Capability::ReadinessMarker:
    case Capability::Entropy:
    case Capability::PauseResume:
    case Capability::Snapshot:
    case Capability::Restore:
    case Capability::DiskHotplug:
    case Capability::NetworkHotplug:
    case Capability::LiveMigration:
    case Capability::MemoryBalloon:
    case Capability::MemoryHotplug:
    case Capability::DiskResize:
    case Capability::Counters:
    case Capability::Graphics:
      return supported();
    case Capability::Tap:
      return tap_support();
    case Capability::UefiBoot:
      return uefi_support();
    case Capability::CpuHotplug:
      return host_architecture() == Architecture::X86_64 ? supported() : impossible("QEMU plugs vCPUs into x86_64 machines only");
    case Capability::CpuTopology:
      return not_built("by -smp");
    case Capability::CpuAffinity:
      return not_built("by the vCPUs' thread ids");
    case Capability::HugePages:
      return not_built("by a memory backend");
    case Capability::MemoryZones:
      return not_built("by -numa");
    case Capability::DiskCacheModes:
      return not_built("by cache options of -blockdev");
    case Capability::DiskRateLimit:
      return not_built("by block_set_io_throttle");
    case Capability::SocketPair:
      return not_built("by -netdev dgram");
    case Capability::BridgedNetwork:
      return not_built("by a TAP in a bridge of the host");
    case Capability::VhostUserNet:
      return not_built("by -netdev vhost-user and shared memory");
    case Capability::VirtioFs:
    case Capability::ReadOnlyShare:
      return shared_folder_support();
    case Capability::Vfio:
      return not_built("by vfio-pci");
    case Capability::Vdpa:
      return not_built("by -netdev vhost-vdpa");
    case Capability::Vsock:
      return not_built("by vhost-vsock-pci");
    case Capability::L2Switch:
      return not_built("by -netdev dgram and a switch of ours");
    case Capability::Tpm:
      return tpm_support();
    case Capability::Watchdog:
      return not_built("by i6300esb");
    case Capability::Audio:
      return not_built("by -audiodev");
    case Capability::Rosetta:
      return impossible("only Apple's Virtualization framework has it");
    case Capability::MacOsGuest:
      return impossible("only Apple's Virtualization framework has it");
  }
  return impossible("unknown");
}

}  // namespace vmtest
