#include "instance_spec.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "vmtest/error.h"

namespace vmtest::propolis {
namespace {

using nlohmann::json;

MachineConfig machine() {
  MachineConfig machine;
  machine.vcpus = 2;
  machine.memory_mib = 1024;
  machine.boot = BootMode::Uefi;
  machine.disks = {{.path = "/vms/t1/root.raw", .format = DiskFormat::Raw, .id = "root"},
                   {.path = "/vms/t1/seed.iso", .format = DiskFormat::Raw, .read_only = true, .id = "seed"}};
  machine.nics = {{.kind = NicKind::Tap, .mac_address = "52:54:00:12:34:56"}};
  return machine;
}

InstanceParts parts() {
  return {.id = "6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11", .name = "t1", .vnics = {"vmtest0"}, .blobs = {{"seed", "iso"}}};
}

json spec_of(const std::string& body) { return json::parse(body).at("init").at("value").at("spec"); }

TEST(PropolisInstanceSpec, WholeBody) {
  std::string blob = "aXNv";
  blob += std::string(676, 'A');
  blob += "AAA=";
  const json wanted = json::parse(R"({
    "properties": {"id": "6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11", "name": "t1", "description": "a VM of vmtest",
      "metadata": {"project_id": "00000000-0000-4000-8000-000000000001", "silo_id": "00000000-0000-4000-8000-000000000001",
                   "sled_id": "00000000-0000-4000-8000-000000000001", "sled_model": "none", "sled_revision": 0,
                   "sled_serial": "none"}},
    "init": {"method": "Spec", "value": {"spec": {
      "board": {"cpus": 2, "memory_mb": 1024, "chipset": {"type": "i440_fx", "value": {"enable_pcie": false}}},
      "components": {
        "com1": {"type": "serial_port", "component": {"num": "com1"}},
        "root": {"type": "virtio_disk",
                 "component": {"backend_id": "root-backend", "pci_path": {"bus": 0, "device": 16, "function": 0}}},
        "root-backend": {"type": "file_storage_backend",
                         "component": {"path": "/vms/t1/root.raw", "block_size": 512, "readonly": false}},
        "seed": {"type": "virtio_disk",
                 "component": {"backend_id": "seed-backend", "pci_path": {"bus": 0, "device": 17, "function": 0}}},
        "seed-backend": {"type": "blob_storage_backend", "component": {"base64": "", "readonly": true}},
        "net0": {"type": "virtio_nic",
                 "component": {"backend_id": "net0-backend", "interface_id": "00000000-0000-4000-8000-525400123456",
                               "pci_path": {"bus": 0, "device": 8, "function": 0}}},
        "net0-backend": {"type": "virtio_network_backend", "component": {"vnic_name": "vmtest0"}},
        "boot": {"type": "boot_settings", "component": {"order": [{"id": "root"}]}}
      }}}}})");
  json body = json::parse(instance_body(machine(), parts()));
  json& content = body["init"]["value"]["spec"]["components"]["seed-backend"]["component"]["base64"];
  EXPECT_EQ(content.get<std::string>().substr(0, 8), "aXNvAAAA");
  EXPECT_EQ(content.get<std::string>().size(), 684U) << "a whole block of 512 bytes";
  content = "";
  EXPECT_EQ(body, wanted);
}

TEST(PropolisInstanceSpec, LargeDiskIsAPath) {
  InstanceParts without = parts();
  without.blobs.clear();
  const json seed = spec_of(instance_body(machine(), without)).at("components").at("seed-backend");
  EXPECT_EQ(seed, json::parse(R"({"type":"file_storage_backend",
                                  "component":{"path":"/vms/t1/seed.iso","block_size":512,"readonly":true}})"));
}

TEST(PropolisInstanceSpec, BootDiskStandsLastAndGoesFirst) {
  MachineConfig direct = machine();
  direct.boot = BootMode::Direct;
  InstanceParts with = parts();
  with.boot_disk = "/vms/t1/boot.raw";
  const json components = spec_of(instance_body(direct, with)).at("components");
  EXPECT_EQ(components.at("boot-disk").at("component").at("pci_path").at("device"), 31);
  EXPECT_EQ(components.at("root").at("component").at("pci_path").at("device"), 16);
  EXPECT_EQ(components.at("boot").at("component").at("order"), json::parse(R"([{"id":"boot-disk"}])"));
  EXPECT_EQ(components.at("boot-disk-backend").at("component").at("readonly"), true);
}

TEST(PropolisInstanceSpec, SerialNumberIsInSmbios) {
  MachineConfig with = machine();
  with.smbios_serial = "ds=nocloud";
  EXPECT_EQ(spec_of(instance_body(with, parts())).at("smbios"),
            json::parse(R"({"manufacturer":"vmtest","product_name":"vmtest","serial_number":"ds=nocloud","version":1})"));
}

TEST(PropolisInstanceSpec, WhatPropolisHasNotIsUnsupported) {
  const std::vector<std::function<void(MachineConfig&)>> changes = {
      [](MachineConfig& m) { m.boot = BootMode::Bios; },
      [](MachineConfig& m) {
        m.shared_folders.push_back({"/srv", "srv"});
      },
      [](MachineConfig& m) { m.tpm = true; },
      [](MachineConfig& m) { m.vnc = true; },
      [](MachineConfig& m) { m.memory_file = MemoryFile{"/m"}; },
      [](MachineConfig& m) { m.restore_from = "/state"; },
      [](MachineConfig& m) { m.memory_balloon = true; },
      [](MachineConfig& m) { m.hotplug_ports = 1; },
      [](MachineConfig& m) { m.agent_channel = true; },
      [](MachineConfig& m) { m.allow_reboot = false; },
      [](MachineConfig& m) { m.extra_arguments = {"--x"}; },
      [](MachineConfig& m) { m.cpu_model = "Nehalem"; },
      [](MachineConfig& m) { m.vcpus = 256; },
      [](MachineConfig& m) { m.disks.front().format = DiskFormat::Qcow2; },
      [](MachineConfig& m) {
        for (int i = 0; i < 16; ++i) m.disks.push_back({.path = "/d", .format = DiskFormat::Raw, .id = "d" + std::to_string(i)});
      },
  };
  for (const auto& change : changes) {
    MachineConfig other = machine();
    change(other);
    EXPECT_THROW((void)instance_body(other, parts()), Unsupported) << &change - changes.data();
  }
}

TEST(PropolisInstanceSpec, BodyThatTheServerWouldNotReadIsAnError) {
  InstanceParts large = parts();
  large.blobs["seed"] = std::string(900 * 1024, 'x');
  EXPECT_THROW((void)instance_body(machine(), large), Error);
}

}  // namespace
}  // namespace vmtest::propolis
