#include "guest/devices.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>

namespace vmtest::guest {
namespace {

constexpr int kReceiveBuffer = 1 << 20;
constexpr std::size_t kLargestEvent = 8192;
// A driver brings forth devices of its own (PCI function, virtio device, disk), each wanting a driver again.
constexpr int kRounds = 4;

// AHCI 1.3.1, sections 3.1.4 and 3.3.10: ports implemented, and of each port whether a device is detected.
constexpr std::string_view kAhciAlias = "bc01sc06i01";
constexpr std::size_t kAhciSize = 0x1000;
constexpr std::size_t kAhciPorts = 0x0C;
constexpr std::size_t kAhciFirstStatus = 0x128;
constexpr std::size_t kAhciPortSize = 0x80;
constexpr unsigned kAhciPortsInReach = 30;
constexpr std::uint32_t kAhciDetection = 0x0F;

constexpr off_t kSuperblock = 1024;
constexpr std::size_t kMagicOffset = 0x38;
constexpr std::size_t kLabelOffset = 0x78;
constexpr std::size_t kLabelSize = 16;

/// Whether a PCI device is a SATA controller with nothing on its ports. Every q35 machine has one, and probing six empty ports
/// costs an emulated guest a tenth of a second, in every fork of it again. Such a controller takes no disks later.
bool is_idle_sata(const std::string& path, std::string_view modalias) {
  if (modalias.find(kAhciAlias) == std::string_view::npos) {
    return false;
  }
  const Descriptor registers(open((path + "/resource5").c_str(), O_RDONLY | O_CLOEXEC));
  void* const memory = registers ? mmap(nullptr, kAhciSize, PROT_READ, MAP_SHARED, registers.get(), 0) : MAP_FAILED;
  if (memory == MAP_FAILED) {
    return false;
  }
  const auto read_register = [memory](std::size_t offset) {
    return *reinterpret_cast<const volatile std::uint32_t*>(static_cast<const char*>(memory) + offset);
  };
  const std::uint32_t ports = read_register(kAhciPorts);
  bool idle = ports >> kAhciPortsInReach == 0;
  for (unsigned port = 0; port < kAhciPortsInReach; ++port) {
    if ((ports >> port & 1) != 0 && (read_register(kAhciFirstStatus + port * kAhciPortSize) & kAhciDetection) != 0) {
      idle = false;
    }
  }
  munmap(memory, kAhciSize);
  return idle;
}

}  // namespace

void coldplug(ModuleLoader& modules) {
  std::set<std::string> seen;
  for (int round = 0; round < kRounds; ++round) {
    bool fresh = false;
    for (const std::string& bus : list_folder("/sys/bus")) {
      const std::string folder = "/sys/bus/" + bus + "/devices/";
      for (const std::string& device : list_folder(folder)) {
        const std::string path = folder + device;
        if (!seen.insert(path).second) {
          continue;
        }
        fresh = true;
        if (access((path + "/driver").c_str(), F_OK) == 0) {
          continue;
        }
        const std::optional<std::string> modalias = find_file(path + "/modalias");
        if (modalias && !is_idle_sata(path, *modalias)) {
          modules.load_for_device(std::string(trim(*modalias)));
        }
      }
    }
    if (!fresh) {
      return;
    }
  }
}

std::optional<DeviceEvent> parse_device_event(std::string_view message) {
  const std::size_t header = message.find('\0');
  // The kernel's messages start with "action@path"; udev's own, on the same family, with "libudev".
  if (header == std::string_view::npos || message.substr(0, header).find('@') == std::string_view::npos) {
    return std::nullopt;
  }
  DeviceEvent event;
  for (const std::string_view field : split(message.substr(header), std::string_view("\0", 1))) {
    const std::size_t equals = field.find('=');
    if (equals == std::string_view::npos) {
      continue;
    }
    const std::string_view key = field.substr(0, equals);
    const std::string value(field.substr(equals + 1));
    if (key == "ACTION") {
      event.action = value;
    } else if (key == "SUBSYSTEM") {
      event.subsystem = value;
    } else if (key == "MODALIAS") {
      event.modalias = value;
    } else if (key == "DEVNAME") {
      event.node = "/dev/" + value;
    }
  }
  return event;
}

DeviceListener::DeviceListener()
    : socket_(socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT)) {
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;
  if (!socket_ || bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fail_errno("cannot listen to device events");
  }
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBuffer, sizeof kReceiveBuffer);
}

std::vector<DeviceEvent> DeviceListener::take() {
  std::vector<DeviceEvent> events;
  std::array<char, kLargestEvent> buffer;
  while (true) {
    const ssize_t size = recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (size <= 0) {
      return events;
    }
    if (auto event = parse_device_event({buffer.data(), static_cast<std::size_t>(size)})) {
      events.push_back(std::move(*event));
    }
  }
}

std::vector<std::string> block_devices() {
  std::vector<std::string> nodes;
  for (const std::string& name : list_folder("/sys/block")) {
    const std::string_view kind = std::string_view(name).substr(0, 2);
    if (kind == "vd" || kind == "sd" || kind == "sr" || kind == "nv") {
      nodes.push_back("/dev/" + name);
    }
  }
  std::stable_partition(nodes.begin(), nodes.end(), [](const std::string& node) { return node.rfind("/dev/vd", 0) == 0; });
  return nodes;
}

std::optional<std::string> find_ext4(std::string_view label) {
  for (const std::string& node : block_devices()) {
    const Descriptor device(open(node.c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, kLabelOffset + kLabelSize> block{};
    if (!device || pread(device.get(), block.data(), block.size(), kSuperblock) != static_cast<ssize_t>(block.size())) {
      continue;
    }
    const std::string_view text(block.data(), block.size());
    const std::string_view name = text.substr(kLabelOffset);
    if (text.substr(kMagicOffset, 2) == "\x53\xEF" && name.substr(0, name.find('\0')) == label) {
      return node;
    }
  }
  return std::nullopt;
}

}  // namespace vmtest::guest
