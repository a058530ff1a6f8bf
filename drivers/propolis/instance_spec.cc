#include "instance_spec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest::propolis {
namespace {

using nlohmann::json;

// Places on the one PCI bus. Disks are numbered by their places, so the one that the guest does not care for stands last.
constexpr unsigned kFirstNic = 8;
constexpr unsigned kMostNics = 8;
constexpr unsigned kFirstDisk = 16;
constexpr unsigned kBootDisk = 31;
constexpr unsigned kMostVcpus = 255;

constexpr const char* kNoProject = "00000000-0000-4000-8000-000000000001";

json component(const char* type, json fields) { return {{"type", type}, {"component", std::move(fields)}}; }
json place(unsigned device) { return {{"bus", 0}, {"device", device}, {"function", 0}}; }

/// A correlation identifier, a UUID, for a card: its MAC address is as unlike others'.
std::string interface_id(const std::string& mac_address) {
  std::string digits = mac_address;
  digits.erase(std::remove(digits.begin(), digits.end(), ':'), digits.end());
  return "00000000-0000-4000-8000-" + digits;
}

void refuse_what_it_has_not(const MachineConfig& machine) {
  const auto refuse = [](bool wanted, const char* why) {
    if (wanted) throw Unsupported(why);
  };
  refuse(machine.boot == BootMode::Bios, "Propolis has no BIOS; boot by UEFI, or a kernel directly");
  refuse(!machine.shared_folders.empty(), "Propolis shares no folders with a guest; leave .shared_folders out, or use QEMU");
  refuse(machine.tpm, "Propolis has no TPM; leave .tpm out, or use QEMU");
  refuse(machine.vnc, "Propolis shows a display on a port only, not on a socket");
  refuse(machine.memory_file.has_value(), "Propolis keeps a guest's memory to itself");
  refuse(!machine.restore_from.empty(), "Propolis cannot continue from a saved state");
  refuse(machine.memory_balloon, "Propolis has no memory balloon");
  refuse(machine.hotplug_ports != 0, "Propolis plugs nothing in while the guest runs");
  refuse(machine.agent_channel, "Propolis has no byte stream between host and guest but the console");
  refuse(!machine.allow_reboot, "Propolis always boots a guest again that reboots");
  refuse(!machine.extra_arguments.empty(), "propolis-server takes a machine's description, no arguments for it");
  if (!machine.cpu_model.empty() && machine.cpu_model != "host")
    throw Unsupported("Propolis gives the guest the host's CPU, not \"" + machine.cpu_model + "\"");
  if (machine.vcpus > kMostVcpus) throw Unsupported("Propolis has at most 255 vCPUs");
}

void put_disk(json& components, const std::string& id, unsigned device, json backend, const char* type) {
  components[id] = component("virtio_disk", {{"backend_id", id + "-backend"}, {"pci_path", place(device)}});
  components[id + "-backend"] = component(type, std::move(backend));
}

void put_file(json& components, const std::string& id, unsigned device, const std::filesystem::path& path, bool read_only) {
  put_disk(components, id, device, {{"path", path.string()}, {"block_size", kBlockSize}, {"readonly", read_only}},
           "file_storage_backend");
}

void put_disks(json& components, const MachineConfig& machine, const InstanceParts& parts) {
  const unsigned most = parts.boot_disk.empty() ? kBootDisk + 1 - kFirstDisk : kBootDisk - kFirstDisk;
  if (machine.disks.size() > most) throw Unsupported("Propolis' bus has places for " + std::to_string(most) + " disks here");
  unsigned device = kFirstDisk;
  for (const DiskConfig& disk : machine.disks) {
    if (disk.format != DiskFormat::Raw) throw Unsupported("Propolis takes raw disks only; \"" + disk.id + "\" is none");
    if (disk.id == "boot-disk" || disk.id == "boot") throw Error("the disk name \"" + disk.id + "\" is taken");
    const auto blob = parts.blobs.find(disk.id);
    if (blob == parts.blobs.end()) {
      put_file(components, disk.id, device, disk.path, disk.read_only);
    } else {
      std::string content = blob->second;
      content.resize((content.size() + kBlockSize - 1) / kBlockSize * kBlockSize, '\0');
      put_disk(components, disk.id, device, {{"base64", base64(content)}, {"readonly", disk.read_only}}, "blob_storage_backend");
    }
    ++device;
  }
  if (!parts.boot_disk.empty()) put_file(components, "boot-disk", kBootDisk, parts.boot_disk, true);
}

void put_nics(json& components, const MachineConfig& machine, const InstanceParts& parts) {
  if (machine.nics.size() > kMostNics) throw Unsupported("Propolis' bus has places for 8 network cards here");
  if (machine.nics.size() != parts.vnics.size()) throw Error("each network card needs a VNIC");
  for (std::size_t i = 0; i < machine.nics.size(); ++i) {
    const std::string id = "net" + std::to_string(i);
    components[id] = component("virtio_nic", {{"backend_id", id + "-backend"},
                                              {"interface_id", interface_id(machine.nics[i].mac_address)},
                                              {"pci_path", place(kFirstNic + static_cast<unsigned>(i))}});
    components[id + "-backend"] = component("virtio_network_backend", {{"vnic_name", parts.vnics[i]}});
  }
}

}  // namespace

std::string instance_body(const MachineConfig& machine, const InstanceParts& parts) {
  refuse_what_it_has_not(machine);
  json components = {{"com1", component("serial_port", {{"num", "com1"}})}};
  put_disks(components, machine, parts);
  put_nics(components, machine, parts);
  const std::string first = !parts.boot_disk.empty() ? "boot-disk" : machine.disks.empty() ? "" : machine.disks.front().id;
  if (!first.empty()) components["boot"] = component("boot_settings", {{"order", {{{"id", first}}}}});
  json spec = {{"board",
                {{"cpus", machine.vcpus},
                 {"memory_mb", machine.memory_mib},
                 {"chipset", {{"type", "i440_fx"}, {"value", {{"enable_pcie", false}}}}}}},
               {"components", components}};
  if (!machine.smbios_serial.empty()) {
    spec["smbios"] = {
        {"manufacturer", "vmtest"}, {"product_name", "vmtest"}, {"serial_number", machine.smbios_serial}, {"version", 1}};
  }
  const json body = {{"properties",
                      {{"id", parts.id},
                       {"name", parts.name},
                       {"description", "a VM of vmtest"},
                       {"metadata",
                        {{"project_id", kNoProject},
                         {"silo_id", kNoProject},
                         {"sled_id", kNoProject},
                         {"sled_model", "none"},
                         {"sled_revision", 0},
                         {"sled_serial", "none"}}}}},
                     {"init", {{"method", "Spec"}, {"value", {{"spec", spec}}}}}};
  std::string text = body.dump(1);
  if (text.size() > kLongestBody) {
    throw Error("the description of the machine has " + std::to_string(text.size()) + " bytes, propolis-server reads at most " +
                std::to_string(kLongestBody));
  }
  return text;
}

}  // namespace vmtest::propolis
