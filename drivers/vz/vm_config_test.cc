#include "vz/vm_config.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "vmtest/error.h"

namespace vmtest::vz_driver {
namespace {

using nlohmann::json;

const Paths kPaths = {"/vm", "/run"};

MachineConfig full_machine() {
  MachineConfig machine;
  machine.vcpus = 2;
  machine.memory_mib = 512;
  machine.kernel = "/images/vmlinux";
  machine.initramfs = "/images/initrd.img";
  machine.command_line = "console=ttyS0,115200 root=LABEL=root quiet";
  machine.disks = {{.path = "/vm/root.raw", .format = DiskFormat::Raw, .id = "root"},
                   {.path = "/vm/seed.iso", .format = DiskFormat::Raw, .read_only = true, .id = "seed"},
                   {.path = "/vm/data0.raw", .format = DiskFormat::Raw, .id = "data0", .serial = "precious"},
                   {.path = "/vm/plugged0.raw", .format = DiskFormat::Raw, .id = "plugged0", .hotplug_port = 0}};
  machine.nics = {{.mac_address = "52:54:00:12:34:56"}};
  machine.agent_channel = true;
  machine.hotplug_ports = 1;
  return machine;
}

TEST(VzVmConfig, WholeMachineIsSaid) {
  EXPECT_EQ(vm_config(full_machine(), kPaths, Identifier::Offered), json::parse(R"({
    "boot_loader": {"type": "linux", "kernel": "/images/vmlinux", "initramfs": "/images/initrd.img",
                    "command_line": "root=LABEL=root quiet console=hvc0"},
    "platform": {"type": "generic", "machine_identifier": "/vm/machine-identifier"},
    "cpus": 2, "memory_mib": 512, "entropy": true, "balloon": false, "usb_controller": true,
    "serial": {"type": "socket", "socket": "/run/console.sock", "log": "/vm/console.log", "append": true},
    "disks": [
      {"type": "virtio-blk", "image": "/vm/root.raw", "read_only": false, "caching": "cached", "synchronization": "fsync"},
      {"type": "virtio-blk", "image": "/vm/seed.iso", "read_only": true, "caching": "cached", "synchronization": "fsync"},
      {"type": "virtio-blk", "image": "/vm/data0.raw", "read_only": false, "caching": "cached", "synchronization": "fsync",
       "id": "precious"}],
    "nics": [{"type": "nat", "mac": "52:54:00:12:34:56"}],
    "vsock": {"socket": "/run/vsock.sock"}
  })"));
}

TEST(VzVmConfig, LeastMachineAsksForLittle) {
  MachineConfig machine;
  machine.kernel = "/kernel";
  EXPECT_EQ(vm_config(machine, kPaths, Identifier::Missing), json::parse(R"({
    "boot_loader": {"type": "linux", "kernel": "/kernel", "command_line": ""},
    "cpus": 1, "memory_mib": 256, "entropy": true, "balloon": false, "disks": [], "nics": [],
    "serial": {"type": "socket", "socket": "/run/console.sock", "log": "/vm/console.log", "append": true}
  })"));
}

TEST(VzVmConfig, FirmwareIsTheFrameworks) {
  MachineConfig machine;
  machine.boot = BootMode::Uefi;
  EXPECT_EQ(vm_config(machine, kPaths, Identifier::Offered).at("boot_loader"),
            json({{"type", "efi"}, {"variable_store", "/vm/variable-store"}}));
}

TEST(VzVmConfig, WhatTheFrameworkLacksIsUnsupported) {
  const std::vector<std::pair<const char*, std::function<void(MachineConfig&)>>> spoilt = {
      {"raw disks only, not qcow2", [](MachineConfig& machine) { machine.disks.front().format = DiskFormat::Qcow2; }},
      {"needs a kernel", [](MachineConfig& machine) { machine.kernel.clear(); }},
      {"has no BIOS", [](MachineConfig& machine) { machine.boot = BootMode::Bios; }},
      {"not by /ovmf/code; leave the firmware out",
       [](MachineConfig& machine) {
         machine.boot = BootMode::Uefi;
         machine.uefi = UefiFirmware{"/ovmf/code", "/vm/efivars.fd"};
       }},
      {"it has no TAPs", [](MachineConfig& machine) { machine.nics.front().kind = NicKind::Tap; }},
      {"network without a way out", [](MachineConfig& machine) { machine.nics.front().kind = NicKind::Isolated; }},
      {"shared folders are not built",
       [](MachineConfig& machine) {
         machine.shared_folders.push_back({"/srv", "srv"});
       }},
      {"no TPM", [](MachineConfig& machine) { machine.tpm = true; }},
      {"not by VNC", [](MachineConfig& machine) { machine.vnc = true; }},
      {"memory to itself", [](MachineConfig& machine) { machine.memory_file = MemoryFile{"/m"}; }},
      {"not \"Skylake\"", [](MachineConfig& machine) { machine.cpu_model = "Skylake"; }},
      {"starts a guest that reboots again", [](MachineConfig& machine) { machine.allow_reboot = false; }},
      {"no further arguments", [](MachineConfig& machine) { machine.extra_arguments = {"-x"}; }},
  };
  for (const auto& [words, spoil] : spoilt) {
    MachineConfig machine = full_machine();
    spoil(machine);
    try {
      (void)vm_config(machine, kPaths, Identifier::Offered);
      ADD_FAILURE() << words;
    } catch (const Unsupported& why) {
      EXPECT_NE(std::string(why.what()).find(words), std::string::npos) << why.what();
    }
  }
}

TEST(VzVmConfig, ConsoleIsTheVirtioOne) {
  EXPECT_EQ(on_virtio_console("console=ttyS0 quiet"), "quiet console=hvc0");
  EXPECT_EQ(on_virtio_console("quiet  console=ttyAMA0,115200n8 x"), "quiet x console=hvc0");
  EXPECT_EQ(on_virtio_console("console=ttyS0 quiet console=tty0"), "quiet console=tty0 console=hvc0");
  EXPECT_EQ(on_virtio_console("console=tty0 earlycon=ttyS0"), "console=tty0 earlycon=ttyS0");
  EXPECT_EQ(on_virtio_console(""), "");
}

TEST(VzUsbDisk, IsNamedByItsId) {
  EXPECT_EQ(usb_disk({.path = "/vm/plugged0.raw", .format = DiskFormat::Raw, .id = "plugged0", .serial = "x"}),
            json::parse(R"({"image": "/vm/plugged0.raw", "read_only": false, "caching": "cached", "synchronization": "fsync",
                            "id": "plugged0"})"));
}

}  // namespace
}  // namespace vmtest::vz_driver
