#include "qemu_command_line.h"

#include <algorithm>
#include <cctype>
#include <initializer_list>

#include "companions/companions.h"
#include "vmtest/error.h"

namespace vmtest {
namespace {

/// QEMU's own limit of a virtio-blk serial number.
constexpr std::size_t kLongestSerial = 20;
/// Nothing QEMU does for us needs another process, another user or old system calls.
constexpr const char* kSandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

bool is_word(const std::string& text) {
  return !text.empty() && std::isalpha(static_cast<unsigned char>(text.front())) != 0 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '-'; });
}

bool is_serial(const std::string& text) {
  return text.size() <= kLongestSerial && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
         });
}

bool is_mac(const std::string& text) {
  if (text.size() != 17) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i % 3 == 2 ? text[i] != ':' : std::isxdigit(static_cast<unsigned char>(text[i])) == 0) return false;
  }
  return true;
}

std::string netdev_of(const NicConfig& nic, std::size_t index) {
  return nic.hotplug_port ? hotplug_netdev(*nic.hotplug_port) : "net" + std::to_string(index);
}

/// Collects the arguments.
class CommandLine {
 public:
  CommandLine(const MachineConfig& machine, const QemuPaths& paths) : machine_(machine), paths_(paths) {}

  std::vector<std::string> build() {
    add({paths_.program.string(), "-nodefaults", "-no-user-config", "-display", "none"});
    add({"-name", "guest=" + qemu_escape(paths_.vm_name) + ",debug-threads=on", "-sandbox", kSandbox});
    add_board();
    add_boot();
    add_console_and_monitors();
    for (unsigned port = 0; port < machine_.hotplug_ports; ++port) add_port(port);
    for (std::size_t i = 0; i < machine_.disks.size(); ++i) add_disk(machine_.disks[i], i);
    for (std::size_t i = 0; i < machine_.nics.size(); ++i) add_nic(machine_.nics[i], i);
    add_companions();
    add_other_devices();
    if (!machine_.allow_reboot) add({"-no-reboot"});
    // What comes in is said by QMP.
    if (!machine_.restore_from.empty() || paths_.awaits_guest) add({"-incoming", "defer"});
    if (paths_.awaits_guest) add({"-S"});
    arguments_.insert(arguments_.end(), machine_.extra_arguments.begin(), machine_.extra_arguments.end());
    return std::move(arguments_);
  }

 private:
  void add(std::initializer_list<std::string> words) { arguments_.insert(arguments_.end(), words); }
  [[nodiscard]] bool x86() const { return machine_.architecture == Architecture::X86_64; }
  [[nodiscard]] bool by_qboot() const {
    return machine_.tpm && x86() && machine_.boot == BootMode::Direct && !machine_.kernel.empty();
  }
  [[nodiscard]] std::string socket(const char* name) const { return qemu_escape((paths_.runtime_dir / name).string()); }

  /// Memory that may come while it runs.
  [[nodiscard]] unsigned pluggable_mib() const {
    return machine_.max_memory_mib > machine_.memory_mib ? machine_.max_memory_mib - machine_.memory_mib : 0;
  }

  void add_board() {
    if (machine_.accelerator == Accelerator::Auto) throw Error("the accelerator of a machine must be settled before it starts");
    const bool kvm = machine_.accelerator == Accelerator::Kvm;
    std::string board = x86() ? "q35" : "virt,gic-version=max";
    board += std::string(",accel=") + (kvm ? "kvm" : "tcg") + ",memory-backend=ram0,dump-guest-core=off";
    if (machine_.boot == BootMode::Uefi) board += ",pflash0=firmware-code,pflash1=firmware-variables";
    const std::string fallback = kvm ? "host" : "max";
    add({"-machine", board});
    const std::string model = machine_.cpu_model.empty() ? fallback : machine_.cpu_model;
    add({"-cpu", model});
    std::string vcpus = std::to_string(machine_.vcpus);
    const bool grows = machine_.max_vcpus > machine_.vcpus;
    if (grows) {
      if (!x86()) throw Unsupported("QEMU plugs vCPUs into x86_64 machines only");
      const std::string most = std::to_string(machine_.max_vcpus);
      vcpus += ",maxcpus=" + most + ",sockets=1,dies=1,cores=" + most + ",threads=1";
    }
    std::string memory = std::to_string(machine_.memory_mib);
    if (pluggable_mib() != 0) memory += ",maxmem=" + std::to_string(machine_.max_memory_mib) + "M,slots=1";
    add({"-smp", vcpus, "-m", memory});
    if (machine_.plugged_vcpus != 0 && !grows) throw Error("vCPUs were plugged into a machine without room for them");
    // Not a part of the above: other devices have queues for as many vCPUs as a machine began with.
    for (unsigned i = machine_.vcpus; i < machine_.vcpus + machine_.plugged_vcpus; ++i) {
      add({"-device", model.substr(0, model.find(',')) + "-x86_64-cpu,id=" + plugged_vcpu(i) +
                          ",socket-id=0,die-id=0,core-id=" + std::to_string(i) + ",thread-id=0"});
    }
    const std::string size = ",id=ram0,size=" + std::to_string(machine_.memory_mib) + "M";
    if (machine_.memory_file) {
      const bool shared = machine_.memory_file->mapping == MemoryFile::Mapping::Shared;
      add({"-object", "memory-backend-file" + size + ",mem-path=" + qemu_escape(machine_.memory_file->path.string()) +
                          ",share=" + (shared ? "on" : "off")});
    } else if (!machine_.shared_folders.empty()) {
      // virtiofsd writes into it.
      add({"-object", "memory-backend-memfd" + size + ",share=on"});
    } else {
      add({"-object", "memory-backend-ram" + size});
    }
  }

  void add_boot() {
    switch (machine_.boot) {
      case BootMode::Direct:
        if (machine_.kernel.empty()) break;  // a machine without a guest: firmware alone
        // The usual BIOS adds a log of the TPM's to the ACPI tables, after which a PVH kernel does not find them.
        if (by_qboot()) add({"-bios", "qboot.rom"});
        add({"-kernel", machine_.kernel.string()});
        if (!machine_.initramfs.empty()) add({"-initrd", machine_.initramfs.string()});
        add({"-append", machine_.command_line});
        break;
      case BootMode::Bios:
        break;
      case BootMode::Uefi:
        if (!machine_.uefi) throw Error("a machine that boots by UEFI needs its firmware files");
        add_file_node("firmware-code", machine_.uefi->code, DiskFormat::Raw, true);
        add_file_node("firmware-variables", machine_.uefi->variables, DiskFormat::Raw, false);
        break;
    }
    if (!machine_.smbios_serial.empty()) add({"-smbios", "type=1,serial=" + qemu_escape(machine_.smbios_serial)});
  }

  void add_console_and_monitors() {
    add({"-chardev",
         "socket,id=console,path=" + socket(kConsoleSocket) +
             ",server=on,wait=off,logfile=" + qemu_escape((paths_.work_dir / kConsoleLog).string()) + ",logappend=on",
         "-serial", "chardev:console"});
    for (const auto& [id, file] : {std::pair{"qmp", kQmpSocket}, std::pair{"qmp-cli", kQmpCliSocket}}) {
      add({"-chardev", std::string("socket,id=") + id + ",path=" + socket(file) + ",server=on,wait=off", "-mon",
           std::string("chardev=") + id + ",mode=control"});
    }
  }

  /// An empty PCIe slot: q35's root bus itself takes devices only at the start.
  void add_port(unsigned port) {
    const std::string number = std::to_string(port + 1);  // 0 means none
    add({"-device", "pcie-root-port,id=" + hotplug_bus(port) + ",chassis=" + number + ",slot=" + number});
  }

  [[nodiscard]] std::string bus_of(std::optional<unsigned> port) const {
    if (!port) return {};
    if (*port >= machine_.hotplug_ports) {
      throw Error("there is no port " + std::to_string(*port) + ": the machine has " + std::to_string(machine_.hotplug_ports));
    }
    return ",bus=" + hotplug_bus(*port);
  }

  /// A block node over a file. Flushes stop in the host's page cache: a VM's disks are of no use after a crash of the host,
  /// and a crash of QEMU or of the guest loses nothing by it.
  void add_file_node(const std::string& node, const std::filesystem::path& path, DiskFormat format, bool read_only) {
    std::string text = "driver=" + std::string(to_string(format)) + ",node-name=" + node;
    text += read_only ? ",read-only=on" : ",discard=unmap,cache.no-flush=on";
    text += ",file.driver=file,file.filename=" + qemu_escape(path.string());
    add({"-blockdev", text});
  }

  void add_disk(const DiskConfig& disk, std::size_t index) {
    require_valid(disk);
    add_file_node("disk-" + disk.id, disk.path, disk.format, disk.read_only);
    std::string device = "virtio-blk-pci,id=" + disk.id + ",drive=disk-" + disk.id;
    if (!disk.serial.empty()) device += ",serial=" + disk.serial;
    device += bus_of(disk.hotplug_port);
    // Firmware starts the first disk, and looks at no other.
    if (index == 0 && machine_.boot != BootMode::Direct) device += ",bootindex=1";
    add({"-device", device});
  }

  void add_nic(const NicConfig& nic, std::size_t index) {
    const std::string netdev = netdev_of(nic, index);
    const std::string id = nic.hotplug_port ? hotplug_nic(*nic.hotplug_port) : "nic" + std::to_string(index);
    std::string backend;
    if (nic.kind == NicKind::Tap) {
      backend = "tap,id=" + netdev + ",fd=" + std::to_string(kFirstTapDescriptor + taps_++);
    } else {
      backend = "user,id=" + netdev;
      if (nic.kind == NicKind::Isolated) backend += ",restrict=on";
      if (paths_.ssh_port != 0 && netdev == forwarding_netdev(machine_)) {
        backend += ",hostfwd=tcp:127.0.0.1:" + std::to_string(paths_.ssh_port) + "-:22";
      }
    }
    // Without its boot ROM, which no guest of ours boots from: firmware would spend time on it.
    std::string device = "virtio-net-pci,id=" + id + ",netdev=" + netdev + ",romfile=";
    if (!nic.mac_address.empty()) {
      require_mac(nic.mac_address);
      device += ",mac=" + nic.mac_address;
    }
    device += bus_of(nic.hotplug_port);
    add({"-netdev", backend, "-device", device});
  }

  void add_companions() {
    validate(machine_.shared_folders);
    for (std::size_t i = 0; i < machine_.shared_folders.size(); ++i) {
      const std::string id = "fs" + std::to_string(i);
      add({"-chardev", "socket,id=" + id + "-socket,path=" + qemu_escape(shared_folder_socket(paths_.runtime_dir, i).string()),
           "-device", "vhost-user-fs-pci,id=" + id + ",chardev=" + id + "-socket,tag=" + machine_.shared_folders[i].tag});
    }
    if (machine_.tpm) {
      add({"-chardev", "socket,id=tpm-socket,path=" + qemu_escape(tpm_socket(paths_.runtime_dir).string()), "-tpmdev",
           "emulator,id=tpm0-backend,chardev=tpm-socket", "-device",
           std::string(x86() ? "tpm-crb" : "tpm-tis-device") + ",id=tpm0,tpmdev=tpm0-backend"});
    }
  }

  void add_other_devices() {
    if (machine_.agent_channel) {
      add({"-device", "virtio-serial-pci,id=serial0,max_ports=2", "-chardev",
           "socket,id=agent,path=" + socket(kAgentSocket) + ",server=on,wait=off", "-device",
           "virtserialport,bus=serial0.0,id=agent0,chardev=agent,name=org.vmtest.agent"});
    }
    if (machine_.random_number_generator) add({"-device", "virtio-rng-pci,id=rng0"});
    if (pluggable_mib() != 0) {
      const std::string memory = std::string(kPluggedMemory);
      // virtiofsd writes into it.
      const std::string backend = machine_.shared_folders.empty() ? "ram" : "memfd";
      const std::string share = machine_.shared_folders.empty() ? "" : ",share=on";
      add({"-object",
           "memory-backend-" + backend + ",id=" + memory + "-ram,reserve=off,size=" + std::to_string(pluggable_mib()) + "M" +
               share,
           "-device", "virtio-mem-pci,id=" + memory + ",memdev=" + memory + "-ram,requested-size=0"});
    }
    if (machine_.memory_balloon) add({"-device", "virtio-balloon-pci,id=balloon0"});
    // Tells a guest that it was forked, so that its kernel reseeds its random numbers. qboot stands still over its table, and
    // what boots by that is not forked.
    if (x86() && !by_qboot()) {
      add({"-device", "vmgenid,id=generation0,guid=" + (paths_.generation_id.empty() ? "auto" : paths_.generation_id)});
    }
    if (machine_.vnc) {
      add({"-device", x86() ? "VGA,id=display0" : "virtio-gpu-pci,id=display0", "-vnc", "unix:" + socket(kVncSocket)});
    }
  }

  const MachineConfig& machine_;
  const QemuPaths& paths_;
  std::vector<std::string> arguments_;
  int taps_ = 0;
};

}  // namespace

std::string hotplug_bus(unsigned port) { return "port" + std::to_string(port); }
std::string plugged_vcpu(std::size_t place) { return "vcpu" + std::to_string(place); }
std::string hotplug_netdev(unsigned port) { return "net-port" + std::to_string(port); }
std::string hotplug_nic(unsigned port) { return "nic-port" + std::to_string(port); }

std::optional<std::string> forwarding_netdev(const MachineConfig& machine) {
  for (std::size_t i = 0; i < machine.nics.size(); ++i) {
    if (machine.nics[i].kind != NicKind::Tap) return netdev_of(machine.nics[i], i);
  }
  return std::nullopt;
}

void require_valid(const DiskConfig& disk) {
  if (!is_word(disk.id)) throw Error("a disk's id must be letters, digits and '-', not \"" + disk.id + "\"");
  if (!is_serial(disk.serial)) {
    throw Error("the serial number of disk \"" + disk.id + "\" must be at most " + std::to_string(kLongestSerial) +
                " letters, digits, '-', '_' and '.', not \"" + disk.serial + "\"");
  }
}

void require_mac(const std::string& text) {
  if (!is_mac(text)) throw Error("\"" + text + "\" is no MAC address");
}

std::string qemu_package(Architecture architecture) {
  return architecture == Architecture::X86_64 ? "qemu-system-x86" : "qemu-system-arm";
}

std::string qemu_program(Architecture architecture) { return "qemu-system-" + std::string(to_string(architecture)); }

std::string qemu_escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) escaped += c == ',' ? std::string(",,") : std::string(1, c);
  return escaped;
}

std::vector<std::string> qemu_command_line(const MachineConfig& machine, const QemuPaths& paths) {
  return CommandLine(machine, paths).build();
}

}  // namespace vmtest
