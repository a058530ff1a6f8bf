#include "vm_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "vmtest/error.h"

namespace vmtest::cloud_hypervisor {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

const Paths kPaths{"/run/vmtest/0123456789", "198.18.0.1"};

MachineConfig whole_machine() {
  MachineConfig machine;
  machine.vcpus = 2;
  machine.memory_mib = 512;
  machine.accelerator = Accelerator::Kvm;
  machine.kernel = "/images/tiny/vmlinux";
  machine.initramfs = "/images/tiny/initrd.img";
  machine.command_line = "console=ttyS0 root=LABEL=a,b quiet";
  machine.disks = {{.path = "/vms/web/root.qcow2", .format = DiskFormat::Qcow2, .id = "root"},
                   {.path = "/vms/web/seed.iso", .format = DiskFormat::Raw, .read_only = true, .id = "seed"},
                   {.path = "/vms/web/data0.raw", .format = DiskFormat::Raw, .id = "data0", .serial = "data0"}};
  machine.nics = {{.kind = NicKind::Tap, .mac_address = "52:54:00:12:34:56"}};
  machine.agent_channel = true;
  machine.memory_balloon = true;
  return machine;
}

std::string refusal(const MachineConfig& machine) {
  try {
    (void)vm_config(machine, kPaths);
  } catch (const Unsupported& error) {
    return error.what();
  }
  return {};
}

TEST(CloudHypervisorVmConfigTest, WholeRequestBody) {
  const json expected = json::parse(R"({
    "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
    "memory": {"size": 536870912},
    "payload": {"kernel": "/images/tiny/vmlinux", "initramfs": "/images/tiny/initrd.img",
                "cmdline": "console=ttyS0 root=LABEL=a,b quiet"},
    "disks": [
      {"path": "/vms/web/root.qcow2", "image_type": "Qcow2", "backing_files": true, "id": "root"},
      {"path": "/vms/web/seed.iso", "image_type": "Raw", "readonly": true, "id": "seed"},
      {"path": "/vms/web/data0.raw", "image_type": "Raw", "id": "data0", "serial": "data0"}],
    "net": [{"ip": "198.18.0.1", "mask": "255.255.255.252", "host_mac": "02:00:c6:12:00:01", "mac": "52:54:00:12:34:56",
             "id": "net0"}],
    "rng": {"src": "/dev/urandom"},
    "balloon": {"size": 0, "deflate_on_oom": true},
    "serial": {"mode": "Socket", "socket": "serial.sock"},
    "console": {"mode": "Off"},
    "vsock": {"cid": 3, "socket": "vsock.sock", "id": "vsock0"}
  })");
  EXPECT_EQ(to_json(vm_config(whole_machine(), kPaths)), expected);
}

TEST(CloudHypervisorVmConfigTest, WholeCommandLine) {
  // clang-format off
  const Words expected = {
      "--cpus", "boot=2,max=2",
      "--memory", "size=536870912",
      "--kernel", "/images/tiny/vmlinux",
      "--initramfs", "/images/tiny/initrd.img",
      "--cmdline", "console=ttyS0 root=LABEL=a,b quiet",
      "--disk", "path=/vms/web/root.qcow2,image_type=qcow2,backing_files=on,id=root",
      "--disk", "path=/vms/web/seed.iso,image_type=raw,readonly=on,id=seed",
      "--disk", "path=/vms/web/data0.raw,image_type=raw,id=data0,serial=data0",
      "--net", "ip=198.18.0.1,mask=255.255.255.252,host_mac=02:00:c6:12:00:01,mac=52:54:00:12:34:56,id=net0",
      "--rng", "src=/dev/urandom",
      "--balloon", "size=0,deflate_on_oom=on",
      "--serial", "socket=serial.sock",
      "--console", "off",
      "--vsock", "cid=3,socket=vsock.sock,id=vsock0",
  };
  // clang-format on
  EXPECT_EQ(to_arguments(vm_config(whole_machine(), kPaths)), expected);
}

MachineConfig machine_with_companions() {
  MachineConfig machine;
  machine.kernel = "/images/tiny/vmlinux";
  machine.random_number_generator = false;
  machine.shared_folders = {{"/home/me/src", "src"}, {"/srv/data", "data", true}};
  machine.tpm = true;
  return machine;
}

TEST(CloudHypervisorVmConfigTest, WholeRequestBodyWithSharedFoldersAndTpm) {
  const json expected = json::parse(R"({
    "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
    "memory": {"size": 268435456, "shared": true},
    "payload": {"kernel": "/images/tiny/vmlinux"},
    "fs": [
      {"tag": "src", "socket": "/run/vmtest/0123456789/fs0.sock", "num_queues": 1, "queue_size": 1024, "id": "fs0"},
      {"tag": "data", "socket": "/run/vmtest/0123456789/fs1.sock", "num_queues": 1, "queue_size": 1024, "id": "fs1"}],
    "serial": {"mode": "Socket", "socket": "serial.sock"},
    "console": {"mode": "Off"},
    "tpm": {"socket": "/run/vmtest/0123456789/tpm.sock"}
  })");
  EXPECT_EQ(to_json(vm_config(machine_with_companions(), kPaths)), expected);
}

TEST(CloudHypervisorVmConfigTest, WholeCommandLineWithSharedFoldersAndTpm) {
  // clang-format off
  const Words expected = {
      "--cpus", "boot=1,max=1",
      "--memory", "size=268435456,shared=on",
      "--kernel", "/images/tiny/vmlinux",
      "--fs", "tag=src,socket=/run/vmtest/0123456789/fs0.sock,num_queues=1,queue_size=1024,id=fs0",
      "--fs", "tag=data,socket=/run/vmtest/0123456789/fs1.sock,num_queues=1,queue_size=1024,id=fs1",
      "--serial", "socket=serial.sock",
      "--console", "off",
      "--tpm", "socket=/run/vmtest/0123456789/tpm.sock",
  };
  // clang-format on
  EXPECT_EQ(to_arguments(vm_config(machine_with_companions(), kPaths)), expected);
}

TEST(CloudHypervisorVmConfigTest, WhatTheMachineDoesNotSayYet) {
  VmConfig config;
  config.cpus = {.boot_vcpus = 1, .max_vcpus = 4, .topology = CpuTopology{2, 2, 1, 1}};
  config.memory = {.size = 268435456,
                   .shared = true,
                   .hugepages = true,
                   .hotplug_size = 134217728,
                   .hotplug_method = HotplugMethod::VirtioMem};
  config.payload = {.firmware = "/usr/share/cloud-hypervisor/CLOUDHV.fd"};
  config.disks = {{.path = "/d.raw",
                   .direct = true,
                   .rate_limiter = {.bandwidth = TokenBucket{1000000, 1000, 5000}, .ops = TokenBucket{100, 200}}}};
  config.fs = {{.tag = "share", .socket = "/run/fs.sock", .id = "fs0"}};
  config.serial = {ConsoleConfig::Mode::Socket, "/run/serial.sock"};
  config.tpm_socket = "/run/swtpm.sock";
  config.serial_number = "ds=nocloud";
  config.watchdog = true;
  config.pvpanic = true;
  // clang-format off
  const Words words = {
      "--cpus", "boot=1,max=4,topology=2:2:1:1",
      "--memory", "size=268435456,shared=on,hugepages=on,hotplug_method=virtio-mem,hotplug_size=134217728",
      "--firmware", "/usr/share/cloud-hypervisor/CLOUDHV.fd",
      "--disk", "path=/d.raw,image_type=raw,direct=on,bw_size=1000000,bw_one_time_burst=5000,bw_refill_time=1000,ops_size=100,ops_refill_time=200",
      "--fs", "tag=share,socket=/run/fs.sock,num_queues=1,queue_size=1024,id=fs0",
      "--serial", "socket=/run/serial.sock",
      "--console", "off",
      "--tpm", "socket=/run/swtpm.sock",
      "--platform", "serial_number=ds=nocloud",
      "--watchdog",
      "--pvpanic",
  };
  // clang-format on
  EXPECT_EQ(to_arguments(config), words);
  const json body = json::parse(R"({
    "cpus": {"boot_vcpus": 1, "max_vcpus": 4,
             "topology": {"threads_per_core": 2, "cores_per_die": 2, "dies_per_package": 1, "packages": 1}},
    "memory": {"size": 268435456, "shared": true, "hugepages": true, "hotplug_size": 134217728, "hotplug_method": "VirtioMem"},
    "payload": {"firmware": "/usr/share/cloud-hypervisor/CLOUDHV.fd"},
    "disks": [{"path": "/d.raw", "image_type": "Raw", "direct": true,
               "rate_limiter_config": {"bandwidth": {"size": 1000000, "refill_time": 1000, "one_time_burst": 5000},
                                       "ops": {"size": 100, "refill_time": 200}}}],
    "fs": [{"tag": "share", "socket": "/run/fs.sock", "num_queues": 1, "queue_size": 1024, "id": "fs0"}],
    "serial": {"mode": "Socket", "socket": "/run/serial.sock"},
    "console": {"mode": "Off"},
    "tpm": {"socket": "/run/swtpm.sock"},
    "platform": {"serial_number": "ds=nocloud"},
    "watchdog": true,
    "pvpanic": true
  })");
  EXPECT_EQ(to_json(config), body);
}

TEST(CloudHypervisorVmConfigTest, FirmwareIsTheMachinesElseItsOwn) {
  MachineConfig machine = whole_machine();
  machine.boot = BootMode::Uefi;
  EXPECT_THROW((void)vm_config(machine, kPaths), Error);
  Paths paths = kPaths;
  paths.firmware = "/firmware/CLOUDHV.fd";
  EXPECT_EQ(to_json(vm_config(machine, paths))["payload"], (json{{"firmware", "/firmware/CLOUDHV.fd"}}));
  machine.uefi = UefiFirmware{"/firmware/other.fd"};
  EXPECT_EQ(to_json(vm_config(machine, paths))["payload"], (json{{"firmware", "/firmware/other.fd"}}));
}

TEST(CloudHypervisorVmConfigTest, RoomToGrow) {
  MachineConfig machine = whole_machine();
  machine.max_vcpus = 4;
  machine.max_memory_mib = 768;
  const json body = to_json(vm_config(machine, kPaths));
  EXPECT_EQ(body["cpus"], (json{{"boot_vcpus", 2}, {"max_vcpus", 4}}));
  EXPECT_EQ(body["memory"], (json{{"size", 536870912}, {"hotplug_size", 268435456}, {"hotplug_method", "VirtioMem"}}));
}

TEST(CloudHypervisorVmConfigTest, TapOfTheHostKeepsItsAddress) {
  MachineConfig machine = whole_machine();
  machine.nics.front().tap_name = "tap7";
  const VmConfig config = vm_config(machine, {"/run/x"});
  EXPECT_EQ(to_json(config)["net"], json::parse(R"([{"tap": "tap7", "mac": "52:54:00:12:34:56", "id": "net0"}])"));
}

TEST(CloudHypervisorVmConfigTest, CardThatWasPluggedInKeepsItsNameAndItsNetwork) {
  MachineConfig machine = whole_machine();
  machine.nics.push_back({.kind = NicKind::Tap,
                          .mac_address = "52:54:00:12:34:57",
                          .tap_name = "vmtestc6130001",
                          .host_address = "198.19.0.1",
                          .hotplug_port = 3});
  const json expected = json::parse(R"({"ip": "198.19.0.1", "mask": "255.255.255.252",
                                        "host_mac": "02:00:c6:13:00:01", "mac": "52:54:00:12:34:57", "id": "net-port3"})");
  EXPECT_EQ(to_json(vm_config(machine, kPaths))["net"][1], expected);
}

TEST(CloudHypervisorVmConfigTest, UserModeNetworkIsUnsupported) {
  MachineConfig machine = whole_machine();
  machine.nics.front().kind = NicKind::User;
  EXPECT_NE(refusal(machine).find("Network::Tap"), std::string::npos);
}

TEST(CloudHypervisorVmConfigTest, BiosIsUnsupported) {
  MachineConfig machine = whole_machine();
  machine.boot = BootMode::Bios;
  EXPECT_NE(refusal(machine).find("no BIOS"), std::string::npos);
}

TEST(CloudHypervisorVmConfigTest, DisplayCpuModelAndMemoryFileAreUnsupported) {
  MachineConfig machine = whole_machine();
  machine.vnc = true;
  EXPECT_NE(refusal(machine).find("display"), std::string::npos);
  machine = whole_machine();
  machine.cpu_model = "EPYC";
  EXPECT_NE(refusal(machine).find("EPYC"), std::string::npos);
  machine = whole_machine();
  machine.memory_file = MemoryFile{"/memory"};
  EXPECT_NE(refusal(machine).find("memory"), std::string::npos);
}

}  // namespace
}  // namespace vmtest::cloud_hypervisor
