#include "host_features.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "api_error.h"

namespace vmtest::vz {
namespace {

HostFacts apple_silicon(OsVersion version) {
  return {.version = version,
          .architecture = "arm64",
          .nested_virtualization = true,
          .rosetta = HostFacts::Rosetta::Installed,
          .least_cpus = 1,
          .most_cpus = 8,
          .least_memory_mib = 4,
          .most_memory_mib = 8192};
}

VmConfig linux_vm() { return {.boot_loader = {.kernel = "/k"}, .cpus = 2, .memory_mib = 512}; }

/// Why the host cannot have the VM, with the status in front; empty when it can.
std::string refusal(const VmConfig& config, const HostFacts& host) {
  try {
    require_all(config, host);
    return {};
  } catch (const ApiError& error) {
    return std::to_string(error.status()) + " " + error.what();
  }
}

TEST(HostFeaturesTest, HaveNamesOfTheirOwn) {
  std::set<std::string_view> names;
  for (const Feature feature : all_features()) names.insert(to_string(feature));
  EXPECT_EQ(names.size(), all_features().size());
  EXPECT_EQ(all_features().size(), static_cast<std::size_t>(Feature::Reboot) + 1);
}

TEST(HostFeaturesTest, ComeWithTheSystem) {
  EXPECT_EQ(missing_reason(Feature::EfiBoot, apple_silicon({12, 6})), "needs macOS 13.0; this is macOS 12.6");
  EXPECT_EQ(missing_reason(Feature::EfiBoot, apple_silicon({13, 0})), std::nullopt);
  EXPECT_EQ(missing_reason(Feature::UsbHotplug, apple_silicon({14, 9})), "needs macOS 15.0; this is macOS 14.9");
  EXPECT_EQ(missing_reason(Feature::PauseResume, apple_silicon({11, 0})), std::nullopt);
}

TEST(HostFeaturesTest, AreFewerOnIntel) {
  HostFacts intel = apple_silicon({15, 0});
  intel.architecture = "x86_64";
  EXPECT_EQ(missing_reason(Feature::SaveRestore, intel), "needs Apple silicon; this is x86_64");
  EXPECT_EQ(missing_reason(Feature::MacOsBoot, intel), "needs Apple silicon; this is x86_64");
  EXPECT_EQ(missing_reason(Feature::Nvme, intel), std::nullopt);
}

TEST(HostFeaturesTest, NeverHaveATpm) {
  EXPECT_EQ(missing_reason(Feature::Tpm, apple_silicon({99, 0})), "the framework has no TPM");
}

TEST(HostFeaturesTest, NeedAHostThatCanRunVms) {
  HostFacts host = apple_silicon({15, 0});
  host.virtualization = false;
  EXPECT_NE(missing_reason(Feature::LinuxBoot, host).value_or("").find("isSupported"), std::string::npos);
}

TEST(HostFeaturesTest, DependOnTheProcessorAndOnRosetta) {
  HostFacts host = apple_silicon({15, 0});
  EXPECT_EQ(missing_reason(Feature::NestedVirtualization, host), std::nullopt);
  host.nested_virtualization = false;
  host.rosetta = HostFacts::Rosetta::NotSupported;
  EXPECT_TRUE(missing_reason(Feature::NestedVirtualization, host));
  EXPECT_TRUE(missing_reason(Feature::RosettaShare, host));
}

TEST(HostFeaturesTest, AreThoseThatAVmUses) {
  VmConfig config = linux_vm();
  config.entropy = false;
  EXPECT_EQ(needed_features(config), std::vector<Feature>{Feature::LinuxBoot});
  config.disks = {{.kind = Disk::Kind::Nvme, .location = "/a"}, {.source = Disk::Source::Nbd, .location = "nbd://x"}};
  config.nics = {{.kind = Nic::Kind::Socket, .mtu = 9000}};
  config.vsock = Vsock{"/v"};
  const auto needed = needed_features(config);
  for (const Feature feature :
       {Feature::Nvme, Feature::VirtioBlk, Feature::Nbd, Feature::FileHandleNic, Feature::NicMtu, Feature::Vsock}) {
    EXPECT_NE(std::find(needed.begin(), needed.end(), feature), needed.end()) << to_string(feature);
  }
}

TEST(HostFeaturesTest, AreRefusedAllAtOnce) {
  VmConfig config = linux_vm();
  config.boot_loader.kind = BootLoader::Kind::Efi;
  config.usb_controller = true;
  EXPECT_EQ(refusal(config, apple_silicon({15, 0})), "");
  EXPECT_EQ(refusal(config, apple_silicon({12, 0})),
            "501 this host cannot have such a VM: efi-boot needs macOS 13.0; this is macOS 12.0: "
            "usb-hotplug needs macOS 15.0; this is macOS 12.0");
}

TEST(HostFeaturesTest, IncludeTheRangesOfSizes) {
  VmConfig config = linux_vm();
  config.cpus = 9;
  EXPECT_EQ(refusal(config, apple_silicon({15, 0})), "400 cpus: the framework takes 1 to 8 on this host, not 9");
  config.cpus = 1;
  config.memory_mib = 8193;
  EXPECT_EQ(refusal(config, apple_silicon({15, 0})), "400 memory_mib: the framework takes 4 to 8192 on this host, not 8193");
}

TEST(HostFeaturesTest, SayHowRosettaIsInstalled) {
  VmConfig config = linux_vm();
  config.shares = {{.kind = Share::Kind::Rosetta, .tag = "rosetta"}};
  HostFacts host = apple_silicon({14, 0});
  host.rosetta = HostFacts::Rosetta::NotInstalled;
  EXPECT_NE(refusal(config, host).find("install=true installs it"), std::string::npos);
  config.shares[0].install = true;
  EXPECT_EQ(refusal(config, host), "");
}

}  // namespace
}  // namespace vmtest::vz
