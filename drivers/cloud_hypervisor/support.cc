// What Cloud Hypervisor's driver can do, capability by capability.

#include <string>
#include <utility>

#include "companions/companions.h"
#include "network/tap.h"
#include "vm.h"
#include "vmtest/cloud_hypervisor_driver.h"
#include "vmtest/error.h"

namespace vmtest {
namespace {

Support supported() { return {Support::Kind::Supported, ""}; }
Support not_built(const std::string& by) {
  return {Support::Kind::NotOffered, "Cloud Hypervisor could, " + by + "; not built yet"};
}
Support firmware_support() {
  try {
    (void)cloud_hypervisor::find_firmware();
    return supported();
  } catch (const Error& error) {
    return {Support::Kind::NeedsHost, error.what()};
  }
}
Support impossible(std::string why) { return {Support::Kind::NotOffered, std::move(why)}; }

}  // namespace

Support CloudHypervisorDriver::support(Capability capability) const {
  const auto by_api = [&] {
    return mode_ == Mode::Api ? supported() : impossible("Cloud Hypervisor does it by its API only, not by its command line");
  };
  switch (capability) {
    case Capability::Boot:
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
    case Capability::CustomMac:
    case Capability::SerialFile:
    case Capability::ReadinessMarker:
    case Capability::Entropy:
      return supported();
    case Capability::StopGraceful:
    case Capability::PauseResume:
    case Capability::Snapshot:
    case Capability::Restore:
    case Capability::DiskHotplug:
    case Capability::NetworkHotplug:
    case Capability::CpuHotplug:
    case Capability::MemoryHotplug:
    case Capability::MemoryBalloon:
    case Capability::DiskResize:
    case Capability::Counters:
    case Capability::LiveMigration:
      return by_api();
    case Capability::Tap:
      return tap_support();
    case Capability::Nat:
      return impossible("Cloud Hypervisor has no network of its own; a TAP reaches its host");
    case Capability::CpuTopology:
      return not_built("by cpus.topology");
    case Capability::CpuAffinity:
      return not_built("by cpus.affinity");
    case Capability::HugePages:
      return not_built("by memory.hugepages");
    case Capability::MemoryZones:
      return not_built("by memory zones");
    case Capability::DiskCacheModes:
      return not_built("by direct");
    case Capability::DiskRateLimit:
      return not_built("by a rate limiter");
    case Capability::BridgedNetwork:
      return not_built("by a TAP in a bridge of the host");
    case Capability::VhostUserNet:
      return not_built("by vhost_user");
    case Capability::VirtioFs:
    case Capability::ReadOnlyShare:
      return shared_folder_support();
    case Capability::Vfio:
      return not_built("by vm.add-device");
    case Capability::Vdpa:
      return not_built("by vm.add-vdpa");
    case Capability::Vsock:
      return not_built("only the guest agent uses it");
    case Capability::L2Switch:
      return not_built("by TAPs in a bridge");
    case Capability::UefiBoot:
      return firmware_support();
    case Capability::Tpm:
      return tpm_support();
    case Capability::Watchdog:
      return not_built("by watchdog");
    case Capability::SocketPair:
      return impossible("Cloud Hypervisor connects a card to a TAP or to vhost-user only");
    case Capability::Graphics:
    case Capability::Audio:
      return impossible("Cloud Hypervisor has no such device");
    case Capability::Rosetta:
    case Capability::MacOsGuest:
      return impossible("only Apple's Virtualization framework has it");
  }
  return impossible("unknown");
}

}  // namespace vmtest
