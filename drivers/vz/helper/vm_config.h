#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace vmtest::vz {

// What vm.create takes, see api.md. Paths are absolute; an empty one is one that was not given.

struct BootLoader {
  enum class Kind { Linux, Efi, MacOs };
  Kind kind = Kind::Linux;
  /// Linux.
  std::string kernel = {};
  std::string initramfs = {};
  std::string command_line = {};
  /// Efi. Made when it is not there.
  std::string variable_store = {};
};

struct Platform {
  enum class Kind { Generic, Mac };
  Kind kind = Kind::Generic;
  /// File of the identifier's bytes. Generic: made when it is not there.
  std::string machine_identifier = {};
  /// Generic.
  bool nested_virtualization = false;
  /// Mac: file of the hardware model's bytes.
  std::string hardware_model = {};
  /// Mac.
  std::string auxiliary_storage = {};
};

struct Disk {
  enum class Kind { VirtioBlk, Nvme, Usb };
  enum class Source { Image, Nbd, BlockDevice };
  enum class Caching { Automatic, Uncached, Cached };
  enum class Synchronization { Full, Fsync, None };
  Kind kind = Kind::VirtioBlk;
  Source source = Source::Image;
  /// Path of the raw image or of the block device, or the NBD server's URL.
  std::string location;
  bool read_only = false;
  Caching caching = Caching::Cached;
  Synchronization synchronization = Synchronization::Fsync;
  /// VirtioBlk: the serial number the guest sees. Usb: what vm.detach-usb-disk takes.
  std::string id = {};
  /// Nbd.
  std::uint64_t timeout_ms = 15'000;
};

struct Nic {
  enum class Kind { Nat, FileHandle, Socket, Bridged };
  Kind kind = Kind::Nat;
  /// Empty: the framework chooses.
  std::string mac = {};
  /// FileHandle: the number of an inherited descriptor, a connected datagram socket.
  int descriptor = -1;
  /// Socket: Unix datagram sockets; the helper binds the first and connects to the second.
  std::string local = {};
  std::string remote = {};
  /// FileHandle and Socket; 1500 is the framework's own default.
  unsigned mtu = 1500;
  /// Bridged: the host's network interface.
  std::string interface = {};
};

struct Serial {
  enum class Kind { None, File, Socket };
  Kind kind = Kind::None;
  /// File: what receives the output. Socket: its log.
  std::string log = {};
  bool append = false;
  /// Socket: where the helper listens.
  std::string socket = {};
};

/// A named port of a virtio console device, /dev/virtio-ports/NAME in a Linux guest.
struct ConsolePort {
  std::string name;
  /// Where the helper listens.
  std::string socket;
};

struct Vsock {
  /// Where the helper listens for CONNECT; connections of the guest to port P go to `<socket>_P`.
  std::string socket;
  std::vector<std::uint32_t> listen_ports = {};
};

struct SharedDirectory {
  std::string name = {};
  std::string path;
  bool read_only = false;
};

struct Share {
  enum class Kind { Single, Multiple, Rosetta };
  Kind kind = Kind::Single;
  std::string tag;
  /// Single: one; Multiple: one at least, named.
  std::vector<SharedDirectory> directories = {};
  /// Rosetta: whether it is installed when it is not.
  bool install = false;
};

struct Graphics {
  enum class Kind { Virtio, Mac };
  Kind kind = Kind::Virtio;
  unsigned width = 1280;
  unsigned height = 800;
  /// Mac.
  unsigned pixels_per_inch = 80;
};

struct Audio {
  bool input = false;
  bool output = true;
};

enum class Keyboard { None, Usb, Mac };
enum class Pointing { None, Usb, MacTrackpad };

struct VmConfig {
  BootLoader boot_loader = {};
  Platform platform = {};
  unsigned cpus = 1;
  std::uint64_t memory_mib = 512;
  /// In the order the guest finds them.
  std::vector<Disk> disks = {};
  std::vector<Nic> nics = {};
  Serial serial = {};
  std::vector<ConsolePort> console_ports = {};
  bool entropy = true;
  bool balloon = false;
  std::optional<Vsock> vsock = {};
  std::vector<Share> shares = {};
  std::optional<Graphics> graphics = {};
  std::optional<Audio> audio = {};
  Keyboard keyboard = Keyboard::None;
  Pointing pointing = Pointing::None;
  /// A controller that USB disks can be attached to while the guest runs.
  bool usb_controller = false;
};

/// Reads vm.create's body. Throws ApiError (400) that names the place and what is wrong there.
[[nodiscard]] VmConfig parse_vm_config(const nlohmann::json& body);
/// Reads vm.attach-usb-disk's body: a disk without `type`.
[[nodiscard]] Disk parse_usb_disk(const nlohmann::json& body);

/// Whether that is a MAC address in the usual way of writing it, of a single station.
[[nodiscard]] bool is_unicast_mac(const std::string& text);

}  // namespace vmtest::vz
