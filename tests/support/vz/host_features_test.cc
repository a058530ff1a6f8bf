#include "host_features.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <ostream>
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

struct Since {
  std::string_view name;
  unsigned system;
  /// What of the framework it is made of.
  std::string_view by;
};
void PrintTo(const Since& since, std::ostream* stream) { *stream << since.name; }

// Systems by Apple's documentation of what is used ("macOS 13.0+"), developer.apple.com/documentation/virtualization.
constexpr Since kSince[] = {
    {"linux-boot", 11, "VZLinuxBootLoader"},
    {"efi-boot", 13, "VZEFIBootLoader"},
    {"macos-boot", 12, "VZMacOSBootLoader"},
    {"machine-identifier", 13, "VZGenericPlatformConfiguration.machineIdentifier"},
    {"nested-virtualization", 15, "VZGenericPlatformConfiguration.isNestedVirtualizationSupported"},
    {"virtio-blk", 11, "VZVirtioBlockDeviceConfiguration"},
    {"nvme", 14, "VZNVMExpressControllerDeviceConfiguration"},
    {"usb-disk", 13, "VZUSBMassStorageDeviceConfiguration"},
    {"usb-hotplug", 15, "VZXHCIControllerConfiguration"},
    {"disk-modes", 12, "VZDiskImageStorageDeviceAttachment.cachingMode"},
    {"nbd", 14, "VZNetworkBlockDeviceStorageDeviceAttachment"},
    {"block-device", 14, "VZDiskBlockDeviceStorageDeviceAttachment"},
    {"nat", 11, "VZNATNetworkDeviceAttachment"},
    {"file-handle-nic", 11, "VZFileHandleNetworkDeviceAttachment"},
    {"nic-mtu", 13, "VZFileHandleNetworkDeviceAttachment.maximumTransmissionUnit"},
    {"bridged-nic", 11, "VZBridgedNetworkDeviceAttachment"},
    {"serial", 11, "VZVirtioConsoleDeviceSerialPortConfiguration"},
    {"console-ports", 13, "VZVirtioConsoleDeviceConfiguration"},
    {"entropy", 11, "VZVirtioEntropyDeviceConfiguration"},
    {"balloon", 11, "VZVirtioTraditionalMemoryBalloonDeviceConfiguration"},
    {"vsock", 11, "VZVirtioSocketDeviceConfiguration"},
    {"directory-share", 12, "VZVirtioFileSystemDeviceConfiguration"},
    {"rosetta-share", 13, "VZLinuxRosettaDirectoryShare"},
    {"graphics", 13, "VZVirtioGraphicsDeviceConfiguration"},
    {"mac-graphics", 12, "VZMacGraphicsDeviceConfiguration"},
    {"audio", 12, "VZVirtioSoundDeviceConfiguration"},
    {"usb-keyboard", 12, "VZUSBKeyboardConfiguration"},
    {"usb-pointing", 12, "VZUSBScreenCoordinatePointingDeviceConfiguration"},
    {"mac-keyboard", 14, "VZMacKeyboardConfiguration"},
    {"mac-trackpad", 13, "VZMacTrackpadConfiguration"},
    {"pause-resume", 11, "VZVirtualMachine.pause"},
    {"forced-stop", 12, "VZVirtualMachine.stop"},
    {"save-restore", 14, "VZVirtualMachine.saveMachineStateTo"},
};

Feature feature_named(std::string_view name) {
  const auto& features = all_features();
  return *std::find_if(features.begin(), features.end(), [&](Feature feature) { return to_string(feature) == name; });
}

class HostFeaturesSinceTest : public ::testing::TestWithParam<Since> {};

TEST_P(HostFeaturesSinceTest, ComeWithTheSystem) {
  const Feature feature = feature_named(GetParam().name);
  const OsVersion since{GetParam().system, 0};
  const OsVersion before{since.major - 1, 9};
  EXPECT_EQ(missing_reason(feature, apple_silicon(since)), std::nullopt) << GetParam().by;
  EXPECT_EQ(missing_reason(feature, apple_silicon(before)), "needs " + to_string(since) + "; this is " + to_string(before))
      << GetParam().by;
}

INSTANTIATE_TEST_SUITE_P(All, HostFeaturesSinceTest, ::testing::ValuesIn(kSince), [](const auto& since) {
  std::string name(since.param.name);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(HostFeaturesTest, ComeWithSomeSystemOrWithNone) {
  const auto& features = all_features();
  const auto never = std::count_if(features.begin(), features.end(), [](Feature feature) {
    return missing_reason(feature, apple_silicon({99, 0})).has_value();
  });
  EXPECT_EQ(std::size(kSince) + static_cast<std::size_t>(never), features.size());
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
