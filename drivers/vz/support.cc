// What Virtualization.framework's driver can do, capability by capability.

#include <string>
#include <utility>

#include "vmtest/vz_driver.h"
#include "vz/capabilities.h"

namespace vmtest {
namespace {

Support supported() { return {Support::Kind::Supported, ""}; }
Support not_built(const std::string& by) {
  return {Support::Kind::NotOffered, "Virtualization.framework could, " + by + "; not built yet"};
}
Support impossible(std::string why) { return {Support::Kind::NotOffered, std::move(why)}; }

/// As the host's system and processor have it.
Support by_host(const char* feature) {
  try {
    const auto why = vz_driver::host_capabilities(vz_driver::find_helper()).why_not(feature);
    return why ? Support{Support::Kind::NeedsHost, *why} : supported();
  } catch (const std::exception& error) {
    return {Support::Kind::NeedsHost, error.what()};
  }
}

}  // namespace

Support VzDriver::support(Capability capability) const {
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
      return supported();
    case Capability::Snapshot:
    case Capability::Restore:
      return by_host("save-restore");
    case Capability::DiskHotplug:
      return by_host("usb-hotplug");
    case Capability::MemoryBalloon:
      return not_built("the device is there on request, setting its target is missing");
    case Capability::DiskCacheModes:
      return not_built("the helper takes them, a spec has no place for them");
    case Capability::SocketPair:
    case Capability::L2Switch:
      return not_built("by cards on datagram sockets, which the helper takes");
    case Capability::BridgedNetwork:
      return not_built("by the helper, with an entitlement that Apple grants");
    case Capability::VirtioFs:
    case Capability::ReadOnlyShare:
      return not_built("by shares, which the helper takes");
    case Capability::Vsock:
      return not_built("only the guest agent uses it");
    case Capability::UefiBoot:
      return by_host("efi-boot");
    case Capability::Rosetta:
      return not_built("by a share of the helper's");
    case Capability::MacOsGuest:
      return not_built("by the helper, with a restore image");
    case Capability::Graphics:
    case Capability::Audio:
      return not_built("by a device of the helper's, which nobody sees or hears");
    case Capability::Tap:
      return impossible("Virtualization.framework has no TAPs; its NAT is reached by the host");
    case Capability::NetworkHotplug:
      return impossible("Virtualization.framework plugs in USB disks only");
    case Capability::CpuHotplug:
    case Capability::CpuTopology:
    case Capability::CpuAffinity:
      return impossible("Virtualization.framework fixes the number of CPUs at the start and nothing else about them");
    case Capability::MemoryHotplug:
    case Capability::HugePages:
    case Capability::MemoryZones:
      return impossible("Virtualization.framework fixes the memory's size at the start and nothing else about it");
    case Capability::DiskResize:
    case Capability::DiskRateLimit:
    case Capability::VhostUserNet:
    case Capability::LiveMigration:
    case Capability::Counters:
    case Capability::Vfio:
    case Capability::Vdpa:
      return impossible("Virtualization.framework has no call for it");
    case Capability::Tpm:
    case Capability::Watchdog:
      return impossible("Virtualization.framework has no such device");
  }
  return impossible("unknown");
}

}  // namespace vmtest
