#import <Virtualization/Virtualization.h>

#include <memory>

#include "apple_silicon.h"
#include "autorelease.h"
#include "host_features.h"
#include "hypervisor.h"
#include "network.h"
#include "serial_queue.h"
#include "vz_machine.h"

namespace vmtest::vz {
namespace {

constexpr std::uint64_t kMib = 1U << 20;

class VzHypervisor : public Hypervisor {
 public:
  HostFacts facts() override {
    HostFacts facts;
    with_pool([&] {
      const NSOperatingSystemVersion version = [[NSProcessInfo processInfo] operatingSystemVersion];
      facts.version = {static_cast<unsigned>(version.majorVersion), static_cast<unsigned>(version.minorVersion)};
      facts.architecture = architecture();
      facts.virtualization = [VZVirtualMachine isSupported];
      facts.least_cpus = static_cast<unsigned>([VZVirtualMachineConfiguration minimumAllowedCPUCount]);
      facts.most_cpus = static_cast<unsigned>([VZVirtualMachineConfiguration maximumAllowedCPUCount]);
      facts.least_memory_mib = [VZVirtualMachineConfiguration minimumAllowedMemorySize] / kMib;
      facts.most_memory_mib = [VZVirtualMachineConfiguration maximumAllowedMemorySize] / kMib;
      facts.bridged_interfaces = bridged_interfaces();
      // Asked for only where the classes know the question.
      if (!(facts.version < OsVersion{13, 0})) facts.rosetta = rosetta();
      if (!(facts.version < OsVersion{15, 0})) {
        facts.nested_virtualization = [VZGenericPlatformConfiguration isNestedVirtualizationSupported];
      }
    });
    return facts;
  }

  std::unique_ptr<VirtualMachine> create(const VmConfig& config, VmListener& listener) override {
    return std::make_unique<VzMachine>(config, facts(), queue_, listener);
  }

 private:
  SerialQueue queue_;
};

}  // namespace

std::unique_ptr<Hypervisor> make_hypervisor() { return std::make_unique<VzHypervisor>(); }

}  // namespace vmtest::vz
