#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/types.h"
#include "vmtest/vm_handle.h"

namespace vmtest {

/// What executes the guest's instructions.
enum class Accelerator {
  /// Hardware virtualisation where it is proven to work on this host, else emulation; which and why is said.
  Auto,
  /// Hardware virtualisation or Unsupported.
  Kvm,
  /// QEMU's own emulation: works everywhere, 20-50 times slower.
  Tcg,
};
[[nodiscard]] std::string_view to_string(Accelerator accelerator);
[[nodiscard]] std::optional<Accelerator> parse_accelerator(std::string_view text);

/// A disk file the VM gets. The file belongs to who made it; the driver only opens it.
struct DiskConfig {
  std::filesystem::path path = {};
  DiskFormat format = DiskFormat::Qcow2;
  bool read_only = false;
  /// Name of the device in the hypervisor ("root", "seed", "data0"), letters, digits and '-'.
  std::string id;
  /// Serial number the guest sees (up to 20 characters), for /dev/disk/by-id.
  std::string serial = {};
  /// The port it is plugged into; none for a disk the machine always had.
  std::optional<unsigned> hotplug_port = {};
};

/// How a network card is connected.
enum class NicKind {
  /// The hypervisor's own NAT: outgoing connections work, the SSH port is forwarded from the host's loopback.
  User,
  /// The same without a way out: only the forwarded port.
  Isolated,
  /// A TAP device of the host, with a subnet of its own. Needs CAP_NET_ADMIN.
  Tap,
};

struct NicConfig {
  NicKind kind = NicKind::User;
  /// Locally administered unicast MAC, lower case, colons.
  std::string mac_address;
  /// Tap: the device's name; when empty, prepare() or the hypervisor makes one.
  std::string tap_name = {};
  /// The host's address on the TAP that was made for a card when it was plugged in, see PluggedNic.
  std::string host_address = {};
  /// The port it is plugged into; none for a card the machine always had.
  std::optional<unsigned> hotplug_port = {};
};

/// A folder of the host that the guest mounts by its tag: `mount -t virtiofs TAG PLACE`. See companions.h for who serves it.
struct SharedFolderConfig {
  std::filesystem::path path;
  /// 1 to 36 letters, digits, '-', '_' and '.'; no two of a machine are the same.
  std::string tag;
  /// Whether the guest may not write, whatever it mounts it as.
  bool read_only = false;
};

/// Throws Error for a tag that cannot be or is there twice.
void validate(const std::vector<SharedFolderConfig>& folders);

/// Firmware files for BootMode::Uefi. `variables` is this VM's own writable copy.
struct UefiFirmware {
  std::filesystem::path code;
  std::filesystem::path variables;
};

/// The guest's memory in a file of the host instead of the hypervisor's own.
struct MemoryFile {
  enum class Mapping {
    /// The file is the memory: what the guest writes is in it. Made when it is not there.
    Shared,
    /// The file's pages are the memory until the guest writes to them; its own copies are the hypervisor's.
    Private,
  };
  std::filesystem::path path;
  Mapping mapping = Mapping::Shared;
};

/// In the runtime folder of a VM with a display.
inline constexpr const char* kVncSocket = "vnc.sock";

/// Everything a driver must know to start a VM: paths and numbers only. The hypervisor's command line or request body is a
/// pure function of this (see qemu_command_line).
struct MachineConfig {
  Architecture architecture = Architecture::X86_64;
  unsigned vcpus = 1;
  unsigned memory_mib = 256;
  /// Up to which they may grow while it runs, see ResizeFacet; no room when not more than the above. Memory has it in steps of
  /// 128 MiB.
  unsigned max_vcpus = 0;
  unsigned max_memory_mib = 0;
  /// vCPUs beside `vcpus` that a VM had been given while it ran, where it continues from there.
  unsigned plugged_vcpus = 0;
  /// Kvm or Tcg by now; Auto was settled by the plan.
  Accelerator accelerator = Accelerator::Tcg;
  /// Empty: "host" on KVM, "max" on TCG.
  std::string cpu_model = {};

  BootMode boot = BootMode::Direct;
  /// Direct: what the hypervisor loads.
  std::filesystem::path kernel = {};
  /// The same kernel in the form that firmware loads, for hypervisors that have nothing else; empty when that is `kernel` itself.
  std::filesystem::path efi_kernel = {};
  std::filesystem::path initramfs = {};
  std::string command_line = {};
  std::optional<UefiFirmware> uefi = {};
  /// SMBIOS system serial number ("ds=nocloud"), empty for none.
  std::string smbios_serial = {};

  /// In the order the guest finds them.
  std::vector<DiskConfig> disks = {};
  std::vector<NicConfig> nics = {};

  /// None: memory of the hypervisor's own.
  std::optional<MemoryFile> memory_file = {};
  /// Device state to continue from, as TemplateFacet::save wrote it of the same machine. Empty: the guest boots.
  std::filesystem::path restore_from = {};
  /// A byte stream between host and guest for the guest agent, see TemplateFacet::connect_agent.
  bool agent_channel = false;

  /// Free places for devices that are plugged in while the guest runs, see HotplugFacet. Numbered from 0.
  unsigned hotplug_ports = 0;

  /// Each has a virtiofsd beside the hypervisor.
  std::vector<SharedFolderConfig> shared_folders = {};
  /// A TPM 2.0: swtpm beside the hypervisor. What it remembers lasts as long as the VM's folder.
  bool tpm = false;

  bool random_number_generator = true;
  bool memory_balloon = false;
  /// A display reachable by VNC on the Unix socket kVncSocket in the runtime folder.
  bool vnc = false;
  /// Whether a guest's reboot restarts the VM (it ends the hypervisor otherwise).
  bool allow_reboot = true;
  /// Handed to the hypervisor after everything else, one argument each: an escape hatch that may clash with the rest.
  std::vector<std::string> extra_arguments = {};
};

/// What prepare() needs to know before any file of the VM exists.
struct PrepareRequest {
  /// 1-64 letters, digits, '-', '_' and '.', not starting with '-' or '.'.
  std::string name;
  /// Folder for the VM's own folder; `<data>/vms` by default.
  std::filesystem::path vms_dir = {};
  /// Where what is worth keeping goes when the owner dies without a goodbye; empty: nowhere.
  std::filesystem::path evidence_dir = {};
  /// Network cards whose host side must be made (ports, TAPs).
  std::vector<NicConfig> nics = {};
  /// A fixed port for SSH instead of a chosen one. Error when it is taken.
  std::optional<std::uint16_t> ssh_port = {};
  /// Held by the supervisor for the VM's life: open lease descriptors (see vmtest/host/ledger.h). Borrowed for the call.
  std::vector<int> lease_descriptors = {};
};

}  // namespace vmtest
