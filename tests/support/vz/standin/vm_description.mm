#include "vm_description.h"

#include <cstdlib>

#include "standin.h"
#include "vmtest/error.h"
#include "vmtest/host/socket.h"

namespace vmtest::vz::standin {
namespace {

/// Debian's ovmf.
constexpr const char* kFirmware = "/usr/share/OVMF/OVMF_CODE_4M.fd";

/// A comma ends an option's value unless it is doubled.
std::string escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) escaped += c == ',' ? ",," : std::string(1, c);
  return escaped;
}

template <class T>
T* as(id object) {
  return [object isKindOfClass:[T class]] ? (T*)object : nil;
}

class Describer {
 public:
  explicit Describer(VZVirtualMachineConfiguration* configuration) : configuration_(configuration) {}

  VmDescription describe() {
    const std::string cpus = std::to_string([configuration_ CPUCount]);
    const std::string memory = std::to_string([configuration_ memorySize] >> 20U) + "M";
    add({"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-cpu", "max", "-smp", cpus, "-m",
         memory});
    add_boot();
    auto [ours, theirs] = make_socket_pair();
    description_.monitor = std::move(ours);
    add({"-chardev", "socket,id=monitor,fd=" + pass(std::move(theirs)), "-mon", "chardev=monitor,mode=control"});
    for (NSUInteger i = 0; i < [[configuration_ storageDevices] count]; ++i) {
      add_disk([[configuration_ storageDevices] objectAtIndex:i], i);
    }
    for (NSUInteger i = 0; i < [[configuration_ networkDevices] count]; ++i) {
      add_nic([[configuration_ networkDevices] objectAtIndex:i], i);
    }
    add_ports();
    add_others();
    return std::move(description_);
  }

 private:
  void add(std::initializer_list<std::string> words) {
    description_.arguments.insert(description_.arguments.end(), words.begin(), words.end());
  }

  /// Gives a descriptor to QEMU and returns its number there.
  std::string pass(int fd) {
    // 0 to 2 are taken.
    const int number = 3 + static_cast<int>(description_.descriptors.size());
    description_.descriptors.emplace_back(fd, number);
    return std::to_string(number);
  }
  std::string pass(FileDescriptor end) {
    description_.ends.push_back(std::move(end));
    return pass(description_.ends.back().get());
  }
  /// The same for what QEMU opens by a path.
  std::string pass_as_path(int fd) {
    const std::string set = std::to_string(++sets_);
    add({"-add-fd", "fd=" + pass(fd) + ",set=" + set});
    return "/dev/fdset/" + set;
  }

  void add_boot() {
    std::string board = "q35,accel=tcg,dump-guest-core=off";
    if (as<VZMacOSBootLoader>([configuration_ bootLoader]) != nil) throw Unsupported("the stand-in runs no macOS");
    if (VZLinuxBootLoader* const linux = as<VZLinuxBootLoader>([configuration_ bootLoader])) {
      add({"-machine", board, "-kernel", to_text([[linux kernelURL] path]), "-append", to_text([linux commandLine])});
      if ([linux initialRamdiskURL] != nil) add({"-initrd", to_text([[linux initialRamdiskURL] path])});
      return;
    }
    VZEFIBootLoader* const efi = as<VZEFIBootLoader>([configuration_ bootLoader]);
    const std::string store = to_text([[[efi variableStore] URL] path]);
    add({"-machine", board + ",pflash0=code,pflash1=variables", "-blockdev",
         std::string("driver=raw,node-name=code,read-only=on,file.driver=file,file.filename=") + kFirmware, "-blockdev",
         "driver=raw,node-name=variables,file.driver=file,file.filename=" + escape(store)});
  }

  void add_disk(VZStorageDeviceConfiguration* device, NSUInteger index) {
    const std::string number = std::to_string(index);
    const std::string node = "disk" + number;
    std::string options;
    if (auto* const block = as<VZDiskBlockDeviceStorageDeviceAttachment>([device attachment])) {
      options = "driver=raw,node-name=" + node + ",read-only=" + ([block isReadOnly] != NO ? "on" : "off") +
                ",file.driver=host_device,file.filename=" + pass_as_path([[block fileHandle] fileDescriptor]);
    } else {
      for (const auto& [name, value] : block_node([device attachment], node)) {
        options += (options.empty() ? "" : ",") + name + "=" + escape(value);
      }
    }
    add({"-blockdev", options});
    if (as<VZNVMExpressControllerDeviceConfiguration>(device) != nil) {
      add({"-device", "nvme,id=nvme" + number + ",serial=nvme" + number + ",drive=" + node});
    } else if (as<VZUSBMassStorageDeviceConfiguration>(device) != nil) {
      need_usb();
      add({"-device", "usb-storage,bus=usb.0,id=usb" + number + ",drive=" + node});
    } else {
      NSString* const identifier = [(VZVirtioBlockDeviceConfiguration*)device blockDeviceIdentifier];
      add({"-device", "virtio-blk-pci,id=blk" + number + ",drive=" + node +
                          (identifier == nil ? std::string() : ",serial=" + escape(to_text(identifier)))});
    }
  }

  void add_nic(VZNetworkDeviceConfiguration* device, NSUInteger index) {
    const std::string id = "net" + std::to_string(index);
    if (auto* const frames = as<VZFileHandleNetworkDeviceAttachment>([device attachment])) {
      add({"-netdev", "dgram,id=" + id + ",local.type=fd,local.str=" + pass([[frames fileHandle] fileDescriptor])});
    } else if (const char* const leases = std::getenv("VMTEST_SIM_VZ_LEASES"); leases != nullptr) {
      // VMTEST_SIM_VZ_LEASES: the file that stands for /var/db/dhcpd_leases. The host reaches the guest then.
      description_.networks.push_back(std::make_shared<NatNetwork>(leases));
      add({"-netdev", "tap,id=" + id + ",fd=" + pass(description_.networks.back()->descriptor())});
    } else {
      add({"-netdev", "user,id=" + id});
    }
    std::string options = "virtio-net-pci,netdev=" + id;
    if ([device MACAddress] != nil) options += ",mac=" + to_text([[device MACAddress] string]);
    add({"-device", options});
  }

  /// `driver` and `name` are those of a device on the virtio-serial bus.
  void add_port(const std::string& driver, const std::string& name, const std::string& id, VZSerialPortAttachment* attachment) {
    nlohmann::json device = {{"driver", driver}, {"bus", "serial.0"}, {"chardev", id}};
    if (!name.empty()) device["name"] = name;
    nlohmann::json file;
    if (auto* const log = as<VZFileSerialPortAttachment>(attachment)) {
      // The attachment made the file, and emptied it if that was wanted.
      file = {{"out", to_text([[log URL] path])}, {"append", true}};
    } else {
      auto* const handles = (VZFileHandleSerialPortAttachment*)attachment;
      file = {{"out", pass_as_path([[handles fileHandleForWriting] fileDescriptor])},
              {"in", pass_as_path([[handles fileHandleForReading] fileDescriptor])},
              // A pipe cannot be emptied, which QEMU would do otherwise.
              {"append", true}};
    }
    // The command line of QEMU 7.2 cannot say what such a file reads from.
    description_.commands.emplace_back("chardev-add",
                                       nlohmann::json{{"id", id}, {"backend", {{"type", "file"}, {"data", std::move(file)}}}});
    description_.commands.emplace_back("device_add", std::move(device));
  }

  void add_ports() {
    bool has_agent = false;
    add({"-device", "virtio-serial-pci,id=serial"});
    for (NSUInteger i = 0; i < [[configuration_ serialPorts] count]; ++i) {
      VZSerialPortConfiguration* const port = [[configuration_ serialPorts] objectAtIndex:i];
      add_port("virtconsole", "", "console" + std::to_string(i), [port attachment]);
    }
    for (NSUInteger i = 0; i < [[configuration_ consoleDevices] count]; ++i) {
      auto* const device = (VZVirtioConsoleDeviceConfiguration*)[[configuration_ consoleDevices] objectAtIndex:i];
      VZVirtioConsolePortConfiguration* port = nil;
      for (NSUInteger p = 0; (port = [[device ports] objectAtIndexedSubscript:p]) != nil; ++p) {
        const std::string name = to_text([port name]);
        has_agent = has_agent || name == "org.vmtest.agent";
        add_port("virtserialport", name, "port" + std::to_string(i) + "-" + std::to_string(p), [port attachment]);
      }
    }
    if ([[configuration_ socketDevices] count] == 0 || has_agent) return;
    auto [ours, theirs] = make_socket_pair();
    description_.agent = std::move(ours);
    add({"-chardev", "socket,id=agent,fd=" + pass(std::move(theirs)), "-device",
         "virtserialport,bus=serial.0,name=org.vmtest.agent,chardev=agent"});
  }

  void need_usb() {
    // With the last free port QEMU adds a hub, which a saved state could not be restored without.
    if (!usb_) add({"-device", "qemu-xhci,id=usb,p2=15,p3=15"});
    usb_ = true;
  }

  void add_others() {
    if ([[configuration_ entropyDevices] count] > 0) add({"-device", "virtio-rng-pci"});
    if ([[configuration_ memoryBalloonDevices] count] > 0) add({"-device", "virtio-balloon-pci,id=balloon"});
    if ([[configuration_ directorySharingDevices] count] > 0) throw Unsupported("the stand-in shares no directories");
    for (NSUInteger i = 0; i < [[configuration_ graphicsDevices] count]; ++i) {
      auto* const scanouts = [(VZVirtioGraphicsDeviceConfiguration*)[[configuration_ graphicsDevices] objectAtIndex:i] scanouts];
      VZVirtioGraphicsScanoutConfiguration* const scanout = [scanouts objectAtIndex:0];
      add({"-device", "virtio-gpu-pci,xres=" + std::to_string([scanout widthInPixels]) +
                          ",yres=" + std::to_string([scanout heightInPixels])});
    }
    if ([[configuration_ audioDevices] count] > 0) {
      add({"-audiodev", "none,id=sound", "-device", "ich9-intel-hda", "-device", "hda-duplex,audiodev=sound"});
    }
    if ([[configuration_ usbControllers] count] > 0) need_usb();
    if ([[configuration_ keyboards] count] > 0) {
      need_usb();
      add({"-device", "usb-kbd,bus=usb.0"});
    }
    if ([[configuration_ pointingDevices] count] > 0) {
      need_usb();
      add({"-device", "usb-tablet,bus=usb.0"});
    }
  }

  VZVirtualMachineConfiguration* configuration_;
  VmDescription description_;
  int sets_ = 0;
  bool usb_ = false;
};

}  // namespace

VmDescription describe(VZVirtualMachineConfiguration* configuration) { return Describer(configuration).describe(); }

std::vector<std::pair<std::string, std::string>> block_node(VZStorageDeviceAttachment* attachment, const std::string& node) {
  if (auto* const nbd = as<VZNetworkBlockDeviceStorageDeviceAttachment>(attachment)) {
    const std::string url = to_text([[nbd URL] absoluteString]);
    const std::string rest = url.substr(url.find("://") + 3);
    const std::size_t colon = rest.find(':');
    const std::size_t slash = rest.find('/');
    if (url.rfind("nbd://", 0) != 0 || colon == std::string::npos)
      throw Unsupported("the stand-in takes nbd://HOST:PORT/NAME alone");
    return {{"driver", "raw"},
            {"node-name", node},
            {"read-only", [nbd isForcedReadOnly] != NO ? "on" : "off"},
            {"file.driver", "nbd"},
            {"file.server.type", "inet"},
            {"file.server.host", rest.substr(0, colon)},
            {"file.server.port", rest.substr(colon + 1, slash == std::string::npos ? slash : slash - colon - 1)},
            {"file.export", slash == std::string::npos ? "" : rest.substr(slash + 1)}};
  }
  auto* const image = as<VZDiskImageStorageDeviceAttachment>(attachment);
  if (image == nil) throw Unsupported("the stand-in takes no such attachment here");
  return {{"driver", "raw"},
          {"node-name", node},
          {"read-only", [image isReadOnly] != NO ? "on" : "off"},
          {"cache.direct", [image cachingMode] == VZDiskImageCachingModeUncached ? "on" : "off"},
          {"cache.no-flush", [image synchronizationMode] == VZDiskImageSynchronizationModeNone ? "on" : "off"},
          {"file.driver", "file"},
          {"file.filename", to_text([[image URL] path])}};
}

}  // namespace vmtest::vz::standin
