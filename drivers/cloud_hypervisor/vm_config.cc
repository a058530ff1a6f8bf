#include "vm_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "companions/companions.h"
#include "network/tap.h"
#include "vmtest/error.h"

namespace vmtest::cloud_hypervisor {
namespace {

constexpr std::uint64_t kMib = 1U << 20;
constexpr const char* kTapMask = "255.255.255.252";
constexpr const char* kRandom = "/dev/urandom";

ImageType image_type(DiskFormat format) {
  switch (format) {
    case DiskFormat::Raw:
      return ImageType::Raw;
    case DiskFormat::Qcow2:
      return ImageType::Qcow2;
  }
  throw Unsupported("Cloud Hypervisor takes raw and qcow2 disks");
}

/// The host's on a TAP that is made, if any.
void give_address(NetConfig& net, const std::string& host_address) {
  if (host_address.empty()) return;
  // Not named: a VM migrates into a process that has its own before the first one's is gone.
  net.tap.clear();
  net.ip = host_address;
  net.mask = kTapMask;
  net.host_mac = host_mac_of(host_address);
}

PayloadConfig payload(const MachineConfig& machine, const std::filesystem::path& own_firmware) {
  switch (machine.boot) {
    case BootMode::Direct:
      if (machine.kernel.empty()) throw Unsupported("Cloud Hypervisor needs a kernel for a direct boot");
      return {.kernel = machine.kernel, .initramfs = machine.initramfs, .cmdline = machine.command_line};
    case BootMode::Uefi:
      if (machine.uefi) return {.firmware = machine.uefi->code};
      if (own_firmware.empty()) throw Error("a boot by UEFI needs firmware");
      return {.firmware = own_firmware};
    case BootMode::Bios:
      break;
  }
  throw Unsupported("Cloud Hypervisor has no BIOS; boot the kernel directly or by UEFI");
}

}  // namespace

DiskConfig disk_config(const vmtest::DiskConfig& disk) {
  const ImageType type = image_type(disk.format);
  return {.path = disk.path,
          .image_type = type,
          .readonly = disk.read_only,
          .backing_files = type == ImageType::Qcow2,
          .id = disk.id,
          .serial = disk.serial};
}

NetConfig net_config(const vmtest::NicConfig& nic, std::size_t place) {
  if (nic.kind != NicKind::Tap) {
    throw Unsupported("Cloud Hypervisor has no network of its own: a card is connected to a TAP (Network::Tap)");
  }
  // One that was plugged in keeps its name, wherever it stands among the others.
  const std::string id = "net" + (nic.hotplug_port ? "-port" + std::to_string(*nic.hotplug_port) : std::to_string(place));
  NetConfig net{.tap = nic.tap_name, .mac = nic.mac_address, .id = id};
  give_address(net, nic.host_address);
  return net;
}

VmConfig vm_config(const MachineConfig& machine, const Paths& paths) {
  if (machine.vnc) throw Unsupported("Cloud Hypervisor has no display");
  if (machine.memory_file) throw Unsupported("Cloud Hypervisor keeps a guest's memory to itself");
  if (!machine.cpu_model.empty() && machine.cpu_model != "host") {
    throw Unsupported("Cloud Hypervisor gives the guest the host's CPU, not \"" + machine.cpu_model + "\"");
  }
  VmConfig config;
  config.cpus = {.boot_vcpus = machine.vcpus, .max_vcpus = std::max(machine.vcpus, machine.max_vcpus)};
  config.memory.size = machine.memory_mib * kMib;
  if (machine.max_memory_mib > machine.memory_mib) {
    config.memory.hotplug_size = (machine.max_memory_mib - machine.memory_mib) * kMib;
    config.memory.hotplug_method = HotplugMethod::VirtioMem;
  }
  config.payload = payload(machine, paths.firmware);
  for (const vmtest::DiskConfig& disk : machine.disks) {
    config.disks.push_back(disk_config(disk));
  }
  for (const NicConfig& nic : machine.nics) {
    NetConfig net = net_config(nic, config.net.size());
    if (config.net.empty()) give_address(net, paths.gateway);
    config.net.push_back(std::move(net));
  }
  if (machine.random_number_generator) config.rng_src = kRandom;
  if (machine.memory_balloon) config.balloon = BalloonConfig{};
  config.serial = {ConsoleConfig::Mode::Socket, kSerialSocket};
  if (machine.agent_channel) config.vsock = VsockConfig{.cid = kGuestCid, .socket = kVsockSocket, .id = "vsock0"};
  validate(machine.shared_folders);
  for (const SharedFolderConfig& folder : machine.shared_folders) {
    const std::size_t place = config.fs.size();
    config.fs.push_back(
        {.tag = folder.tag, .socket = shared_folder_socket(paths.runtime_dir, place), .id = "fs" + std::to_string(place)});
  }
  // virtiofsd writes into it.
  config.memory.shared = !config.fs.empty();
  if (machine.tpm) config.tpm_socket = tpm_socket(paths.runtime_dir);
  config.serial_number = machine.smbios_serial;
  return config;
}

}  // namespace vmtest::cloud_hypervisor
