#include "vz/vm_config.h"

#include <nlohmann/json.hpp>
#include <sstream>

#include "vmtest/error.h"

namespace vmtest::vz_driver {
namespace {

using nlohmann::json;

json image(const DiskConfig& disk) {
  if (disk.format != DiskFormat::Raw) {
    throw Unsupported("Virtualization.framework takes raw disks only, not " + std::string(to_string(disk.format)) + ": " +
                      disk.path.string());
  }
  // What the framework chooses for itself has been seen to damage file systems of Linux guests.
  return {{"image", disk.path.string()}, {"read_only", disk.read_only}, {"caching", "cached"}, {"synchronization", "fsync"}};
}

json boot_loader(const MachineConfig& machine, const Paths& paths) {
  switch (machine.boot) {
    case BootMode::Direct: {
      if (machine.kernel.empty()) throw Unsupported("Virtualization.framework needs a kernel for a direct boot");
      json loader = {
          {"type", "linux"}, {"kernel", machine.kernel.string()}, {"command_line", on_virtio_console(machine.command_line)}};
      if (!machine.initramfs.empty()) loader["initramfs"] = machine.initramfs.string();
      return loader;
    }
    case BootMode::Uefi:
      // So is the form of its variables, which the helper makes.
      if (machine.uefi) {
        throw Unsupported("Virtualization.framework boots by firmware of its own, not by " + machine.uefi->code.string() +
                          "; leave the firmware out");
      }
      return {{"type", "efi"}, {"variable_store", (paths.work_dir / kVariableStore).string()}};
    case BootMode::Bios:
      break;
  }
  throw Unsupported("Virtualization.framework has no BIOS; boot the kernel directly or by UEFI");
}

json nat(const NicConfig& nic) {
  if (nic.kind != NicKind::User) {
    throw Unsupported(std::string("Virtualization.framework connects a card to its NAT (Network::User); it has no ") +
                      (nic.kind == NicKind::Tap ? "TAPs" : "network without a way out"));
  }
  json card = {{"type", "nat"}};
  if (!nic.mac_address.empty()) card["mac"] = nic.mac_address;
  return card;
}

void require_possible(const MachineConfig& machine) {
  if (!machine.shared_folders.empty())
    throw Unsupported("shared folders are not built for Virtualization.framework yet; leave .shared_folders out, or use QEMU");
  if (machine.tpm) throw Unsupported("Virtualization.framework has no TPM; leave .tpm out, or use QEMU");
  if (machine.vnc) throw Unsupported("Virtualization.framework shows a display in a window of its own only, not by VNC");
  if (machine.memory_file) throw Unsupported("Virtualization.framework keeps a guest's memory to itself");
  if (!machine.cpu_model.empty() && machine.cpu_model != "host") {
    throw Unsupported("Virtualization.framework gives the guest the host's CPU, not \"" + machine.cpu_model + "\"");
  }
  if (!machine.allow_reboot)
    throw Unsupported("Virtualization.framework starts a guest that reboots again; it cannot be told not to");
  if (!machine.extra_arguments.empty()) throw Unsupported("the VZ helper takes no further arguments for the hypervisor");
}

}  // namespace

std::string on_virtio_console(const std::string& command_line) {
  std::istringstream words(command_line);
  std::string result;
  bool has_console = false;
  for (std::string word; words >> word;) {
    if (word.rfind("console=ttyS0", 0) == 0 || word.rfind("console=ttyAMA0", 0) == 0) {
      has_console = true;
      continue;
    }
    result += (result.empty() ? "" : " ") + word;
  }
  // The last one named is the system's console.
  if (has_console) result += std::string(result.empty() ? "" : " ") + "console=hvc0";
  return result;
}

json usb_disk(const DiskConfig& disk) {
  json body = image(disk);
  body["id"] = disk.id;
  return body;
}

json vm_config(const MachineConfig& machine, const Paths& paths, Identifier identifier) {
  require_possible(machine);
  json config = {{"boot_loader", boot_loader(machine, paths)},
                 {"cpus", machine.vcpus},
                 {"memory_mib", machine.memory_mib},
                 {"serial",
                  {{"type", "socket"},
                   {"socket", (paths.runtime_dir / kConsoleSocket).string()},
                   {"log", (paths.work_dir / kConsoleLog).string()},
                   {"append", true}}},
                 {"entropy", machine.random_number_generator},
                 {"balloon", machine.memory_balloon}};
  if (identifier == Identifier::Offered) {
    config["platform"] = {{"type", "generic"}, {"machine_identifier", (paths.work_dir / kMachineIdentifier).string()}};
  }
  config["disks"] = json::array();
  for (const DiskConfig& disk : machine.disks) {
    // Plugged in once it runs, since only what was plugged in so can be taken out.
    if (disk.hotplug_port) continue;
    json entry = image(disk);
    entry["type"] = "virtio-blk";
    if (!disk.serial.empty()) entry["id"] = disk.serial;
    config["disks"].push_back(std::move(entry));
  }
  config["nics"] = json::array();
  for (const NicConfig& nic : machine.nics) config["nics"].push_back(nat(nic));
  if (machine.agent_channel) config["vsock"] = {{"socket", (paths.runtime_dir / kVsockSocket).string()}};
  if (machine.hotplug_ports > 0) config["usb_controller"] = true;
  return config;
}

}  // namespace vmtest::vz_driver
