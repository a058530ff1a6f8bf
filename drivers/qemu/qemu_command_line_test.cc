#include "qemu_command_line.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "vmtest/error.h"

namespace vmtest {
namespace {

using Words = std::vector<std::string>;

const QemuPaths kPaths{"/usr/bin/qemu-system-x86_64", "web", "/vms/web", "/run/vmtest/0123456789", 10042};

bool has_option(const Words& words, const std::string& option, const std::string& value) {
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == option && words[i + 1] == value) return true;
  }
  return false;
}

bool has_word(const Words& words, const std::string& word) { return std::find(words.begin(), words.end(), word) != words.end(); }

TEST(QemuCommandLineTest, WholeDirectBoot) {
  MachineConfig machine;
  machine.vcpus = 2;
  machine.memory_mib = 512;
  machine.kernel = "/images/tiny/vmlinuz";
  machine.initramfs = "/images/tiny/initrd.img";
  machine.command_line = "console=ttyS0 quiet";
  machine.disks = {{.path = "/vms/web/root.qcow2", .format = DiskFormat::Qcow2, .id = "root"},
                   {.path = "/vms/web/seed.iso", .format = DiskFormat::Raw, .read_only = true, .id = "seed"},
                   {.path = "/vms/web/data0.raw", .format = DiskFormat::Raw, .id = "data0", .serial = "data0"}};
  machine.nics = {{.kind = NicKind::User, .mac_address = "52:54:00:12:34:56"}};

  // clang-format off
  const Words expected = {
      "/usr/bin/qemu-system-x86_64",
      "-nodefaults",
      "-no-user-config",
      "-display", "none",
      "-name", "guest=web,debug-threads=on",
      "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
      "-machine", "q35,accel=tcg,memory-backend=ram0,dump-guest-core=off",
      "-cpu", "max",
      "-smp", "2",
      "-m", "512",
      "-object", "memory-backend-ram,id=ram0,size=512M",
      "-kernel", "/images/tiny/vmlinuz",
      "-initrd", "/images/tiny/initrd.img",
      "-append", "console=ttyS0 quiet",
      "-chardev", "socket,id=console,path=/run/vmtest/0123456789/console.sock,server=on,wait=off,logfile=/vms/web/console.log,logappend=on",
      "-serial", "chardev:console",
      "-chardev", "socket,id=qmp,path=/run/vmtest/0123456789/qmp.sock,server=on,wait=off",
      "-mon", "chardev=qmp,mode=control",
      "-chardev", "socket,id=qmp-cli,path=/run/vmtest/0123456789/qmp-cli.sock,server=on,wait=off",
      "-mon", "chardev=qmp-cli,mode=control",
      "-blockdev", "driver=qcow2,node-name=disk-root,discard=unmap,cache.no-flush=on,file.driver=file,file.filename=/vms/web/root.qcow2",
      "-device", "virtio-blk-pci,id=root,drive=disk-root",
      "-blockdev", "driver=raw,node-name=disk-seed,read-only=on,file.driver=file,file.filename=/vms/web/seed.iso",
      "-device", "virtio-blk-pci,id=seed,drive=disk-seed",
      "-blockdev", "driver=raw,node-name=disk-data0,discard=unmap,cache.no-flush=on,file.driver=file,file.filename=/vms/web/data0.raw",
      "-device", "virtio-blk-pci,id=data0,drive=disk-data0,serial=data0",
      "-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:10042-:22",
      "-device", "virtio-net-pci,id=nic0,netdev=net0,romfile=,mac=52:54:00:12:34:56",
      "-device", "virtio-rng-pci,id=rng0",
      "-device", "vmgenid,id=generation0,guid=auto"};
  // clang-format on
  EXPECT_EQ(qemu_command_line(machine, kPaths), expected);
}

TEST(QemuCommandLineTest, GuestThatArrivesKeepsItsGenerationAndRunsWhenItIsThere) {
  QemuPaths paths = kPaths;
  paths.generation_id = "5f0b9a30-1f4d-4c8e-9a43-0d7c1f1f4a11";
  paths.awaits_guest = true;
  const Words words = qemu_command_line({}, paths);
  EXPECT_TRUE(has_option(words, "-device", "vmgenid,id=generation0,guid=5f0b9a30-1f4d-4c8e-9a43-0d7c1f1f4a11"));
  EXPECT_TRUE(has_option(words, "-incoming", "defer"));
  EXPECT_TRUE(has_word(words, "-S"));
}

TEST(QemuCommandLineTest, PortIsForwardedIntoTheFirstUserNetwork) {
  MachineConfig machine;
  EXPECT_EQ(forwarding_netdev(machine), std::nullopt);
  machine.nics = {{.kind = NicKind::Tap}, {.kind = NicKind::User}, {.kind = NicKind::User}};
  EXPECT_EQ(forwarding_netdev(machine), "net1");
  machine.nics = {{.kind = NicKind::User, .hotplug_port = 3}};
  EXPECT_EQ(forwarding_netdev(machine), "net-port3");
}

TEST(QemuCommandLineTest, RoomToGrow) {
  MachineConfig machine;
  machine.vcpus = 2;
  machine.max_vcpus = 4;
  machine.max_memory_mib = 512;
  const Words words = qemu_command_line(machine, kPaths);
  EXPECT_TRUE(has_option(words, "-smp", "2,maxcpus=4,sockets=1,dies=1,cores=4,threads=1"));
  EXPECT_TRUE(has_option(words, "-m", "256,maxmem=512M,slots=1"));
  EXPECT_TRUE(has_option(words, "-object", "memory-backend-ram,id=memory0-ram,reserve=off,size=256M"));
  EXPECT_TRUE(has_option(words, "-device", "virtio-mem-pci,id=memory0,memdev=memory0-ram,requested-size=0"));
}

TEST(QemuCommandLineTest, VcpusThatAFrozenMachineHadBeenGiven) {
  MachineConfig machine;
  machine.vcpus = 2;
  machine.max_vcpus = 4;
  machine.plugged_vcpus = 1;
  EXPECT_TRUE(has_option(qemu_command_line(machine, kPaths), "-device",
                         "max-x86_64-cpu,id=vcpu2,socket-id=0,die-id=0,core-id=2,thread-id=0"));
  machine.max_vcpus = 0;
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Error);
}

TEST(QemuCommandLineTest, VcpusComeToX86MachinesOnly) {
  MachineConfig machine;
  machine.architecture = Architecture::Aarch64;
  machine.max_vcpus = 2;
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Unsupported);
}

TEST(QemuCommandLineTest, WholeUefiBootWithEverything) {
  MachineConfig machine;
  machine.accelerator = Accelerator::Kvm;
  machine.boot = BootMode::Uefi;
  machine.uefi = UefiFirmware{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/vms/web/efivars.fd"};
  machine.smbios_serial = "ds=nocloud,s=x";
  machine.disks = {{.path = "/vms/web/root.qcow2", .format = DiskFormat::Qcow2, .id = "root"}};
  machine.nics = {{.kind = NicKind::Tap, .mac_address = "52:54:00:12:34:56"},
                  {.kind = NicKind::Isolated, .mac_address = "52:54:00:12:34:57"},
                  {.kind = NicKind::Tap, .mac_address = "52:54:00:12:34:58"}};
  machine.memory_balloon = true;
  machine.vnc = true;
  machine.allow_reboot = false;
  machine.extra_arguments = {"-device", "i6300esb"};

  // clang-format off
  const Words expected = {
      "/usr/bin/qemu-system-x86_64",
      "-nodefaults",
      "-no-user-config",
      "-display", "none",
      "-name", "guest=web,debug-threads=on",
      "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
      "-machine", "q35,accel=kvm,memory-backend=ram0,dump-guest-core=off,pflash0=firmware-code,pflash1=firmware-variables",
      "-cpu", "host",
      "-smp", "1",
      "-m", "256",
      "-object", "memory-backend-ram,id=ram0,size=256M",
      "-blockdev", "driver=raw,node-name=firmware-code,read-only=on,file.driver=file,file.filename=/usr/share/OVMF/OVMF_CODE_4M.fd",
      "-blockdev", "driver=raw,node-name=firmware-variables,discard=unmap,cache.no-flush=on,file.driver=file,file.filename=/vms/web/efivars.fd",
      "-smbios", "type=1,serial=ds=nocloud,,s=x",
      "-chardev", "socket,id=console,path=/run/vmtest/0123456789/console.sock,server=on,wait=off,logfile=/vms/web/console.log,logappend=on",
      "-serial", "chardev:console",
      "-chardev", "socket,id=qmp,path=/run/vmtest/0123456789/qmp.sock,server=on,wait=off",
      "-mon", "chardev=qmp,mode=control",
      "-chardev", "socket,id=qmp-cli,path=/run/vmtest/0123456789/qmp-cli.sock,server=on,wait=off",
      "-mon", "chardev=qmp-cli,mode=control",
      "-blockdev", "driver=qcow2,node-name=disk-root,discard=unmap,cache.no-flush=on,file.driver=file,file.filename=/vms/web/root.qcow2",
      "-device", "virtio-blk-pci,id=root,drive=disk-root,bootindex=1",
      "-netdev", "tap,id=net0,fd=3",
      "-device", "virtio-net-pci,id=nic0,netdev=net0,romfile=,mac=52:54:00:12:34:56",
      "-netdev", "user,id=net1,restrict=on,hostfwd=tcp:127.0.0.1:10042-:22",
      "-device", "virtio-net-pci,id=nic1,netdev=net1,romfile=,mac=52:54:00:12:34:57",
      "-netdev", "tap,id=net2,fd=4",
      "-device", "virtio-net-pci,id=nic2,netdev=net2,romfile=,mac=52:54:00:12:34:58",
      "-device", "virtio-rng-pci,id=rng0",
      "-device", "virtio-balloon-pci,id=balloon0",
      "-device", "vmgenid,id=generation0,guid=auto",
      "-device", "VGA,id=display0",
      "-vnc", "unix:/run/vmtest/0123456789/vnc.sock",
      "-no-reboot",
      "-device", "i6300esb"};
  // clang-format on
  EXPECT_EQ(qemu_command_line(machine, kPaths), expected);
}

TEST(QemuCommandLineTest, WholeAarch64) {
  MachineConfig machine;
  machine.architecture = Architecture::Aarch64;
  machine.kernel = "/images/tiny/Image";
  machine.command_line = "console=ttyAMA0";
  machine.random_number_generator = false;
  QemuPaths paths = kPaths;
  paths.program = "/usr/bin/qemu-system-aarch64";

  // clang-format off
  const Words expected = {
      "/usr/bin/qemu-system-aarch64",
      "-nodefaults",
      "-no-user-config",
      "-display", "none",
      "-name", "guest=web,debug-threads=on",
      "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
      "-machine", "virt,gic-version=max,accel=tcg,memory-backend=ram0,dump-guest-core=off",
      "-cpu", "max",
      "-smp", "1",
      "-m", "256",
      "-object", "memory-backend-ram,id=ram0,size=256M",
      "-kernel", "/images/tiny/Image",
      "-append", "console=ttyAMA0",
      "-chardev", "socket,id=console,path=/run/vmtest/0123456789/console.sock,server=on,wait=off,logfile=/vms/web/console.log,logappend=on",
      "-serial", "chardev:console",
      "-chardev", "socket,id=qmp,path=/run/vmtest/0123456789/qmp.sock,server=on,wait=off",
      "-mon", "chardev=qmp,mode=control",
      "-chardev", "socket,id=qmp-cli,path=/run/vmtest/0123456789/qmp-cli.sock,server=on,wait=off",
      "-mon", "chardev=qmp-cli,mode=control"};
  // clang-format on
  EXPECT_EQ(qemu_command_line(machine, paths), expected);
}

TEST(QemuCommandLineTest, WholeWithSharedFoldersAndTpm) {
  MachineConfig machine;
  machine.kernel = "/images/tiny/vmlinuz";
  machine.command_line = "console=ttyS0";
  machine.shared_folders = {{"/home/me/src", "src"}, {"/srv/data", "data", true}};
  machine.tpm = true;

  // clang-format off
  const Words expected = {
      "/usr/bin/qemu-system-x86_64",
      "-nodefaults",
      "-no-user-config",
      "-display", "none",
      "-name", "guest=web,debug-threads=on",
      "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
      "-machine", "q35,accel=tcg,memory-backend=ram0,dump-guest-core=off",
      "-cpu", "max",
      "-smp", "1",
      "-m", "256",
      "-object", "memory-backend-memfd,id=ram0,size=256M,share=on",
      "-bios", "qboot.rom",
      "-kernel", "/images/tiny/vmlinuz",
      "-append", "console=ttyS0",
      "-chardev", "socket,id=console,path=/run/vmtest/0123456789/console.sock,server=on,wait=off,logfile=/vms/web/console.log,logappend=on",
      "-serial", "chardev:console",
      "-chardev", "socket,id=qmp,path=/run/vmtest/0123456789/qmp.sock,server=on,wait=off",
      "-mon", "chardev=qmp,mode=control",
      "-chardev", "socket,id=qmp-cli,path=/run/vmtest/0123456789/qmp-cli.sock,server=on,wait=off",
      "-mon", "chardev=qmp-cli,mode=control",
      "-chardev", "socket,id=fs0-socket,path=/run/vmtest/0123456789/fs0.sock",
      "-device", "vhost-user-fs-pci,id=fs0,chardev=fs0-socket,tag=src",
      "-chardev", "socket,id=fs1-socket,path=/run/vmtest/0123456789/fs1.sock",
      "-device", "vhost-user-fs-pci,id=fs1,chardev=fs1-socket,tag=data",
      "-chardev", "socket,id=tpm-socket,path=/run/vmtest/0123456789/tpm.sock",
      "-tpmdev", "emulator,id=tpm0-backend,chardev=tpm-socket",
      "-device", "tpm-crb,id=tpm0,tpmdev=tpm0-backend",
      "-device", "virtio-rng-pci,id=rng0"};
  // clang-format on
  EXPECT_EQ(qemu_command_line(machine, kPaths), expected);
}

TEST(QemuCommandLineTest, TpmOfAarch64HasAnotherDevice) {
  MachineConfig machine;
  machine.architecture = Architecture::Aarch64;
  machine.tpm = true;
  const Words words = qemu_command_line(machine, kPaths);
  EXPECT_TRUE(has_option(words, "-device", "tpm-tis-device,id=tpm0,tpmdev=tpm0-backend"));
  EXPECT_TRUE(has_option(words, "-object", "memory-backend-ram,id=ram0,size=256M"));
}

TEST(QemuCommandLineTest, RefusesTagsThatWouldBecomeOptions) {
  MachineConfig machine;
  machine.shared_folders = {{"/a", "src,id=x"}};
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Error);
}

TEST(QemuCommandLineTest, NamesTheProgramOfTheArchitecture) {
  EXPECT_EQ(qemu_program(Architecture::X86_64), "qemu-system-x86_64");
  EXPECT_EQ(qemu_program(Architecture::Aarch64), "qemu-system-aarch64");
}

TEST(QemuCommandLineTest, CommasInPathsAreDoubled) {
  MachineConfig machine;
  machine.disks = {{.path = "/vms/a,b/root.qcow2", .id = "root"}};
  QemuPaths paths = kPaths;
  paths.work_dir = "/vms/a,b";
  const Words words = qemu_command_line(machine, paths);
  EXPECT_TRUE(has_option(words, "-blockdev",
                         "driver=qcow2,node-name=disk-root,discard=unmap,cache.no-flush=on,file.driver=file,"
                         "file.filename=/vms/a,,b/root.qcow2"));
  EXPECT_TRUE(has_option(words, "-chardev",
                         "socket,id=console,path=/run/vmtest/0123456789/console.sock,server=on,wait=off,"
                         "logfile=/vms/a,,b/console.log,logappend=on"));
}

TEST(QemuCommandLineTest, ChosenCpuModelReplacesTheDefault) {
  MachineConfig machine;
  machine.cpu_model = "Nehalem";
  EXPECT_TRUE(has_option(qemu_command_line(machine, kPaths), "-cpu", "Nehalem"));
}

TEST(QemuCommandLineTest, BiosBootsTheFirstDisk) {
  MachineConfig machine;
  machine.boot = BootMode::Bios;
  machine.kernel = "/ignored";
  machine.disks = {{.path = "/a", .id = "root"}, {.path = "/b", .id = "data0"}};
  const Words words = qemu_command_line(machine, kPaths);
  EXPECT_TRUE(has_option(words, "-device", "virtio-blk-pci,id=root,drive=disk-root,bootindex=1"));
  EXPECT_TRUE(has_option(words, "-device", "virtio-blk-pci,id=data0,drive=disk-data0"));
  EXPECT_FALSE(has_word(words, "-kernel"));
}

TEST(QemuCommandLineTest, OnlyTheFirstUserCardForwardsThePort) {
  MachineConfig machine;
  machine.nics = {{.kind = NicKind::User, .mac_address = ""}, {.kind = NicKind::User, .mac_address = ""}};
  const Words words = qemu_command_line(machine, kPaths);
  EXPECT_TRUE(has_option(words, "-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:10042-:22"));
  EXPECT_TRUE(has_option(words, "-netdev", "user,id=net1"));
}

TEST(QemuCommandLineTest, WhatWasPluggedInIsInItsPort) {
  MachineConfig machine;
  machine.hotplug_ports = 2;
  machine.disks = {{.path = "/root.qcow2", .id = "root"}, {.path = "/x.qcow2", .id = "plugged0", .hotplug_port = 1}};
  machine.nics = {{.mac_address = "52:54:00:12:34:56"}, {.mac_address = "52:54:00:12:34:57", .hotplug_port = 0}};
  const Words words = qemu_command_line(machine, kPaths);
  EXPECT_TRUE(has_option(words, "-device", "pcie-root-port,id=port0,chassis=1,slot=1"));
  EXPECT_TRUE(has_option(words, "-device", "pcie-root-port,id=port1,chassis=2,slot=2"));
  EXPECT_TRUE(has_option(words, "-device", "virtio-blk-pci,id=plugged0,drive=disk-plugged0,bus=port1"));
  EXPECT_TRUE(has_option(words, "-netdev", "user,id=net-port0"));
  EXPECT_TRUE(
      has_option(words, "-device", "virtio-net-pci,id=nic-port0,netdev=net-port0,romfile=,mac=52:54:00:12:34:57,bus=port0"));
  machine.disks[1].hotplug_port = 2;
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Error);
}

TEST(QemuCommandLineTest, RefusesAnUnsettledAccelerator) {
  MachineConfig machine;
  machine.accelerator = Accelerator::Auto;
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Error);
}

TEST(QemuCommandLineTest, RefusesUefiWithoutFirmware) {
  MachineConfig machine;
  machine.boot = BootMode::Uefi;
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Error);
}

TEST(QemuCommandLineTest, RefusesIdsThatWouldBecomeOptions) {
  MachineConfig machine;
  machine.disks = {{.path = "/a", .id = "root,serial=x"}};
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Error);
}

TEST(QemuCommandLineTest, RefusesSerialsThatWouldBecomeOptionsOrAreTooLong) {
  MachineConfig machine;
  machine.disks = {{.path = "/a", .id = "root", .serial = "a,b"}};
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Error);
  machine.disks = {{.path = "/a", .id = "root", .serial = "123456789012345678901"}};
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Error);
}

TEST(QemuCommandLineTest, RefusesBrokenMacAddresses) {
  MachineConfig machine;
  machine.nics = {{.kind = NicKind::User, .mac_address = "52:54:00:12:34:56,romfile=/x"}};
  EXPECT_THROW((void)qemu_command_line(machine, kPaths), Error);
}

}  // namespace
}  // namespace vmtest
