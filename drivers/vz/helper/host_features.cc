#include "host_features.h"

#include <algorithm>
#include <set>

#include "api_error.h"

namespace vmtest::vz {
namespace {

enum class Architectures { All, Arm64, None };

struct Row {
  Feature feature;
  std::string_view name;
  /// The first system that has it.
  OsVersion since = {};
  Architectures architectures = Architectures::All;
  /// None: why no system has it.
  std::string_view never = {};
};

constexpr Row never(Feature feature, std::string_view name, std::string_view why) {
  return {feature, name, {}, Architectures::None, why};
}

constexpr Row kRows[] = {
    {Feature::LinuxBoot, "linux-boot", {11, 0}},
    {Feature::EfiBoot, "efi-boot", {13, 0}},
    {Feature::MacOsBoot, "macos-boot", {12, 0}, Architectures::Arm64},
    {Feature::MachineIdentifier, "machine-identifier", {13, 0}},
    {Feature::NestedVirtualization, "nested-virtualization", {15, 0}},
    {Feature::VirtioBlk, "virtio-blk", {11, 0}},
    {Feature::Nvme, "nvme", {14, 0}},
    {Feature::UsbDisk, "usb-disk", {13, 0}},
    {Feature::UsbHotplug, "usb-hotplug", {15, 0}},
    {Feature::DiskModes, "disk-modes", {12, 0}},
    {Feature::Nbd, "nbd", {14, 0}},
    {Feature::BlockDevice, "block-device", {14, 0}},
    {Feature::Nat, "nat", {11, 0}},
    {Feature::FileHandleNic, "file-handle-nic", {11, 0}},
    {Feature::NicMtu, "nic-mtu", {13, 0}},
    {Feature::BridgedNic, "bridged-nic", {11, 0}},
    {Feature::Serial, "serial", {11, 0}},
    {Feature::ConsolePorts, "console-ports", {13, 0}},
    {Feature::Entropy, "entropy", {11, 0}},
    {Feature::Balloon, "balloon", {11, 0}},
    {Feature::Vsock, "vsock", {11, 0}},
    {Feature::DirectoryShare, "directory-share", {12, 0}},
    {Feature::RosettaShare, "rosetta-share", {13, 0}, Architectures::Arm64},
    {Feature::Graphics, "graphics", {13, 0}},
    {Feature::MacGraphics, "mac-graphics", {12, 0}, Architectures::Arm64},
    {Feature::Audio, "audio", {12, 0}},
    {Feature::UsbKeyboard, "usb-keyboard", {12, 0}},
    {Feature::UsbPointing, "usb-pointing", {12, 0}},
    {Feature::MacKeyboard, "mac-keyboard", {14, 0}, Architectures::Arm64},
    {Feature::MacTrackpad, "mac-trackpad", {13, 0}, Architectures::Arm64},
    {Feature::PauseResume, "pause-resume", {11, 0}},
    {Feature::ForcedStop, "forced-stop", {12, 0}},
    {Feature::SaveRestore, "save-restore", {14, 0}, Architectures::Arm64},
    never(Feature::Tpm, "tpm", "the framework has no TPM"),
    never(Feature::Watchdog, "watchdog", "the framework has no watchdog"),
    never(Feature::CpuHotplug, "cpu-hotplug", "the framework fixes the number of CPUs at the start"),
    never(Feature::MemoryHotplug, "memory-hotplug", "the framework fixes the memory at the start; it has a balloon"),
    never(Feature::DiskResize, "disk-resize", "the framework has no call for it"),
    never(Feature::RateLimit, "rate-limit", "the framework has no limits of rates"),
    never(Feature::LiveMigration, "live-migration", "the framework saves and restores on one host only"),
    never(Feature::Reboot, "reboot", "the framework has no call for it; stop and boot do the same"),
};

const Row& row(Feature feature) {
  return *std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& row) { return row.feature == feature; });
}

void add_disk(const Disk& disk, std::set<Feature>& needed) {
  switch (disk.kind) {
    case Disk::Kind::VirtioBlk:
      needed.insert(Feature::VirtioBlk);
      break;
    case Disk::Kind::Nvme:
      needed.insert(Feature::Nvme);
      break;
    case Disk::Kind::Usb:
      needed.insert(Feature::UsbDisk);
      break;
  }
  switch (disk.source) {
    case Disk::Source::Image:
      // Before there were modes the framework chose them.
      if (disk.caching != Disk::Caching::Cached || disk.synchronization != Disk::Synchronization::Fsync) {
        needed.insert(Feature::DiskModes);
      }
      break;
    case Disk::Source::Nbd:
      needed.insert(Feature::Nbd);
      break;
    case Disk::Source::BlockDevice:
      needed.insert(Feature::BlockDevice);
      break;
  }
}

void add_nic(const Nic& nic, std::set<Feature>& needed) {
  switch (nic.kind) {
    case Nic::Kind::Nat:
      needed.insert(Feature::Nat);
      break;
    case Nic::Kind::FileHandle:
    case Nic::Kind::Socket:
      needed.insert(Feature::FileHandleNic);
      if (nic.mtu != 1500) needed.insert(Feature::NicMtu);
      break;
    case Nic::Kind::Bridged:
      needed.insert(Feature::BridgedNic);
      break;
  }
}

}  // namespace

std::string to_string(const OsVersion& version) {
  return "macOS " + std::to_string(version.major) + "." + std::to_string(version.minor);
}

const std::vector<Feature>& all_features() {
  static const std::vector<Feature> features = [] {
    std::vector<Feature> rows;
    for (const Row& row : kRows) rows.push_back(row.feature);
    return rows;
  }();
  return features;
}

std::string_view to_string(Feature feature) { return row(feature).name; }

std::optional<std::string> missing_reason(Feature feature, const HostFacts& host) {
  const Row& wanted = row(feature);
  if (wanted.architectures == Architectures::None) return std::string(wanted.never);
  if (!host.virtualization) return "needs a Mac that the framework can run VMs on; VZVirtualMachine.isSupported says no here";
  if (wanted.architectures == Architectures::Arm64 && host.architecture != "arm64") {
    return "needs Apple silicon; this is " + host.architecture;
  }
  if (host.version < wanted.since) return "needs " + to_string(wanted.since) + "; this is " + to_string(host.version);
  if (feature == Feature::NestedVirtualization && !host.nested_virtualization) {
    return "needs a processor that the framework nests on; this one is not";
  }
  if (feature == Feature::RosettaShare && host.rosetta == HostFacts::Rosetta::NotSupported) {
    return "needs Rosetta, which this host does not support";
  }
  return std::nullopt;
}

std::vector<Feature> needed_features(const VmConfig& config) {
  std::set<Feature> needed;
  const auto need_if = [&](bool condition, Feature feature) {
    if (condition) needed.insert(feature);
  };
  switch (config.boot_loader.kind) {
    case BootLoader::Kind::Linux:
      needed.insert(Feature::LinuxBoot);
      break;
    case BootLoader::Kind::Efi:
      needed.insert(Feature::EfiBoot);
      break;
    case BootLoader::Kind::MacOs:
      needed.insert(Feature::MacOsBoot);
      break;
  }
  const bool generic = config.platform.kind == Platform::Kind::Generic;
  need_if(generic && !config.platform.machine_identifier.empty(), Feature::MachineIdentifier);
  need_if(config.platform.nested_virtualization, Feature::NestedVirtualization);
  for (const Disk& disk : config.disks) add_disk(disk, needed);
  for (const Nic& nic : config.nics) add_nic(nic, needed);
  need_if(config.serial.kind != Serial::Kind::None, Feature::Serial);
  need_if(!config.console_ports.empty(), Feature::ConsolePorts);
  need_if(config.entropy, Feature::Entropy);
  need_if(config.balloon, Feature::Balloon);
  need_if(config.vsock.has_value(), Feature::Vsock);
  for (const Share& share : config.shares) {
    needed.insert(share.kind == Share::Kind::Rosetta ? Feature::RosettaShare : Feature::DirectoryShare);
  }
  if (config.graphics) {
    needed.insert(config.graphics->kind == Graphics::Kind::Virtio ? Feature::Graphics : Feature::MacGraphics);
  }
  need_if(config.audio.has_value(), Feature::Audio);
  need_if(config.keyboard == Keyboard::Usb, Feature::UsbKeyboard);
  need_if(config.keyboard == Keyboard::Mac, Feature::MacKeyboard);
  need_if(config.pointing == Pointing::Usb, Feature::UsbPointing);
  need_if(config.pointing == Pointing::MacTrackpad, Feature::MacTrackpad);
  need_if(config.usb_controller, Feature::UsbHotplug);
  return {needed.begin(), needed.end()};
}

void require(Feature feature, const HostFacts& host) {
  if (const auto reason = missing_reason(feature, host)) {
    throw ApiError(kNotOffered, std::string(to_string(feature)) + " " + *reason);
  }
}

void require_all(const VmConfig& config, const HostFacts& host) {
  std::vector<std::string> reasons;
  for (const Feature feature : needed_features(config)) {
    if (const auto reason = missing_reason(feature, host)) reasons.push_back(std::string(to_string(feature)) + " " + *reason);
  }
  for (const Share& share : config.shares) {
    if (share.kind == Share::Kind::Rosetta && !share.install && host.rosetta == HostFacts::Rosetta::NotInstalled) {
      reasons.emplace_back("rosetta-share needs Rosetta, which is not installed; install=true installs it");
    }
  }
  if (!reasons.empty()) {
    reasons.insert(reasons.begin(), "this host cannot have such a VM");
    throw ApiError(kNotOffered, std::move(reasons));
  }
  const auto check_range = [](const std::string& what, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
    if (value >= least && value <= most) return;
    throw ApiError(kBadRequest, what + ": the framework takes " + std::to_string(least) + " to " + std::to_string(most) +
                                    " on this host, not " + std::to_string(value));
  };
  check_range("cpus", config.cpus, host.least_cpus, host.most_cpus);
  check_range("memory_mib", config.memory_mib, host.least_memory_mib, host.most_memory_mib);
}

}  // namespace vmtest::vz
