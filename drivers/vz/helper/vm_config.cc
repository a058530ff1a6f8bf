#include "vm_config.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <set>

#include "api_error.h"
#include "json_reader.h"

namespace vmtest::vz {
namespace {

using nlohmann::json;

/// The framework's limit of a block device's identifier, which is virtio's.
constexpr std::size_t kLongestIdentifier = 20;
/// virtio-fs' limit of a tag.
constexpr std::size_t kLongestTag = 36;
constexpr std::uint64_t kMostMemoryMib = 16U << 20;
constexpr std::uint64_t kMostPixels = 16384;

bool is_identifier(const std::string& text, std::size_t longest) {
  return !text.empty() && text.size() <= longest && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  });
}

BootLoader parse_boot_loader(JsonReader reader) {
  BootLoader loader;
  loader.kind = static_cast<BootLoader::Kind>(reader.choice("type", {"linux", "efi", "macos"}));
  if (loader.kind == BootLoader::Kind::Linux) {
    loader.kernel = reader.path("kernel");
    loader.initramfs = reader.path_or_empty("initramfs");
    loader.command_line = reader.string_or("command_line", "");
  } else if (loader.kind == BootLoader::Kind::Efi) {
    loader.variable_store = reader.path("variable_store");
  }
  reader.finish();
  return loader;
}

Platform parse_platform(JsonReader reader) {
  Platform platform;
  platform.kind = static_cast<Platform::Kind>(reader.choice("type", {"generic", "mac"}));
  if (platform.kind == Platform::Kind::Generic) {
    platform.machine_identifier = reader.path_or_empty("machine_identifier");
    platform.nested_virtualization = reader.boolean_or("nested_virtualization", false);
  } else {
    platform.hardware_model = reader.path("hardware_model");
    platform.machine_identifier = reader.path("machine_identifier");
    platform.auxiliary_storage = reader.path("auxiliary_storage");
  }
  reader.finish();
  return platform;
}

void parse_source(JsonReader& reader, Disk& disk) {
  const bool image = reader.has("image");
  const bool nbd = reader.has("nbd");
  const bool block_device = reader.has("block_device");
  if (image + nbd + block_device != 1) reader.refuse("image", "exactly one of image, nbd and block_device must be given");
  if (image) {
    disk.source = Disk::Source::Image;
    disk.location = reader.path("image");
    disk.caching = static_cast<Disk::Caching>(reader.choice_or("caching", {"automatic", "uncached", "cached"}, 2));
  } else if (nbd) {
    disk.source = Disk::Source::Nbd;
    disk.location = reader.string("nbd");
    const std::string scheme = disk.location.substr(0, disk.location.find("://"));
    if (scheme != "nbd" && scheme != "nbds" && scheme != "nbd+unix" && scheme != "nbds+unix") {
      reader.refuse("nbd",
                    "must be a URL that starts with nbd://, nbds://, nbd+unix:// or nbds+unix://, not '" + disk.location + "'");
    }
    disk.timeout_ms = reader.number_or("timeout_ms", 1, 3'600'000, disk.timeout_ms);
  } else {
    disk.source = Disk::Source::BlockDevice;
    disk.location = reader.path("block_device");
  }
  disk.read_only = reader.boolean_or("read_only", false);
  if (image) {
    disk.synchronization = static_cast<Disk::Synchronization>(reader.choice_or("synchronization", {"full", "fsync", "none"}, 1));
  } else {
    // The framework knows only these two for what is no file.
    const bool none = reader.choice_or("synchronization", {"full", "none"}, 0) == 1;
    disk.synchronization = none ? Disk::Synchronization::None : Disk::Synchronization::Full;
  }
  disk.id = reader.string_or("id", "");
  if (!disk.id.empty() && !is_identifier(disk.id, kLongestIdentifier)) {
    reader.refuse("id", "must be 1 to 20 letters, digits, '-', '_' and '.', not '" + disk.id + "'");
  }
}

Disk parse_disk(JsonReader reader) {
  Disk disk;
  disk.kind = static_cast<Disk::Kind>(reader.choice_or("type", {"virtio-blk", "nvme", "usb"}, 0));
  parse_source(reader, disk);
  reader.finish();
  return disk;
}

Nic parse_nic(JsonReader reader) {
  Nic nic;
  nic.kind = static_cast<Nic::Kind>(reader.choice("type", {"nat", "file-handle", "socket", "bridged"}));
  nic.mac = reader.string_or("mac", "");
  if (!nic.mac.empty() && !is_unicast_mac(nic.mac)) {
    reader.refuse("mac", "must be a unicast address like 52:54:00:12:34:56, not '" + nic.mac + "'");
  }
  if (nic.kind == Nic::Kind::FileHandle) {
    nic.descriptor = static_cast<int>(reader.number("fd", 3, std::numeric_limits<int>::max()));
  } else if (nic.kind == Nic::Kind::Socket) {
    nic.local = reader.socket_path("local");
    nic.remote = reader.socket_path("remote");
  } else if (nic.kind == Nic::Kind::Bridged) {
    nic.interface = reader.string("interface");
  }
  if (nic.kind == Nic::Kind::FileHandle || nic.kind == Nic::Kind::Socket) {
    nic.mtu = static_cast<unsigned>(reader.number_or("mtu", 1500, 65535, nic.mtu));
  }
  reader.finish();
  return nic;
}

Serial parse_serial(JsonReader reader) {
  Serial serial;
  serial.kind = static_cast<Serial::Kind>(1 + reader.choice("type", {"file", "socket"}));
  serial.log = serial.kind == Serial::Kind::File ? reader.path("log") : reader.path_or_empty("log");
  serial.append = reader.boolean_or("append", false);
  if (serial.kind == Serial::Kind::Socket) serial.socket = reader.socket_path("socket");
  reader.finish();
  return serial;
}

ConsolePort parse_console_port(JsonReader reader) {
  ConsolePort port{reader.string("name"), reader.socket_path("socket")};
  if (!is_identifier(port.name, 64))
    reader.refuse("name", "must be 1 to 64 letters, digits, '-', '_' and '.', not '" + port.name + "'");
  reader.finish();
  return port;
}

Vsock parse_vsock(JsonReader reader) {
  Vsock vsock{reader.socket_path("socket")};
  for (const std::uint64_t port : reader.numbers("listen_ports", 1, std::numeric_limits<std::uint32_t>::max() - 1)) {
    vsock.listen_ports.push_back(static_cast<std::uint32_t>(port));
  }
  reader.finish();
  return vsock;
}

Share parse_share(JsonReader reader) {
  Share share;
  share.kind = static_cast<Share::Kind>(reader.choice("type", {"single", "multiple", "rosetta"}));
  share.tag = reader.string("tag");
  if (share.tag.empty() || share.tag.size() > kLongestTag) reader.refuse("tag", "must have 1 to 36 bytes");
  if (share.kind == Share::Kind::Single) {
    share.directories.push_back({"", reader.path("path"), reader.boolean_or("read_only", false)});
  } else if (share.kind == Share::Kind::Multiple) {
    for (auto& [name, directory] : reader.named_objects("directories")) {
      share.directories.push_back({name, directory.path("path"), directory.boolean_or("read_only", false)});
      directory.finish();
    }
  } else {
    share.install = reader.boolean_or("install", false);
  }
  reader.finish();
  return share;
}

Graphics parse_graphics(JsonReader reader) {
  Graphics graphics;
  graphics.kind = static_cast<Graphics::Kind>(reader.choice("type", {"virtio", "mac"}));
  graphics.width = static_cast<unsigned>(reader.number_or("width", 1, kMostPixels, graphics.width));
  graphics.height = static_cast<unsigned>(reader.number_or("height", 1, kMostPixels, graphics.height));
  if (graphics.kind == Graphics::Kind::Mac) {
    graphics.pixels_per_inch = static_cast<unsigned>(reader.number_or("pixels_per_inch", 1, 1000, graphics.pixels_per_inch));
  }
  reader.finish();
  return graphics;
}

Audio parse_audio(JsonReader reader) {
  Audio audio;
  audio.input = reader.boolean_or("input", audio.input);
  audio.output = reader.boolean_or("output", audio.output);
  if (!audio.input && !audio.output) reader.refuse("output", "a sound device needs input, output or both");
  reader.finish();
  return audio;
}

void require_distinct(const std::vector<std::string>& values, const std::string& what) {
  std::set<std::string> seen;
  for (const std::string& value : values) {
    if (!value.empty() && !seen.insert(value).second) throw ApiError(kBadRequest, what + ": '" + value + "' stands there twice");
  }
}

/// What must fit together.
void check(const VmConfig& config, JsonReader& reader) {
  const bool mac = config.platform.kind == Platform::Kind::Mac;
  if ((config.boot_loader.kind == BootLoader::Kind::MacOs) != mac) {
    reader.refuse("platform", "boot loader macos needs platform mac, the others platform generic");
  }
  std::vector<std::string> ids;
  for (const Disk& disk : config.disks) {
    ids.push_back(disk.id);
    if (disk.kind == Disk::Kind::Nvme && mac) reader.refuse("disks", "nvme needs platform generic");
  }
  require_distinct(ids, "disks");
  if (config.graphics && (config.graphics->kind == Graphics::Kind::Mac) != mac) {
    reader.refuse("graphics", "type mac needs platform mac, type virtio platform generic");
  }
  if (!mac && config.keyboard == Keyboard::Mac) reader.refuse("keyboard", "mac needs platform mac");
  if (!mac && config.pointing == Pointing::MacTrackpad) reader.refuse("pointing", "mac-trackpad needs platform mac");

  std::vector<std::string> macs;
  std::vector<std::string> descriptors;
  std::vector<std::string> sockets = {config.serial.socket, config.vsock ? config.vsock->socket : ""};
  for (const Nic& nic : config.nics) {
    std::string lower = nic.mac;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    macs.push_back(lower);
    descriptors.push_back(nic.descriptor < 0 ? "" : std::to_string(nic.descriptor));
    sockets.insert(sockets.end(), {nic.local, nic.remote});
  }
  require_distinct(macs, "nics: MAC");
  require_distinct(descriptors, "nics: descriptor");
  std::vector<std::string> names;
  for (const ConsolePort& port : config.console_ports) {
    names.push_back(port.name);
    sockets.push_back(port.socket);
  }
  require_distinct(names, "console_ports: name");
  require_distinct(sockets, "sockets");
  std::vector<std::string> tags;
  for (const Share& share : config.shares) tags.push_back(share.tag);
  require_distinct(tags, "shares: tag");
}

}  // namespace

bool is_unicast_mac(const std::string& text) {
  if (text.size() != 17) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i % 3 == 2 ? text[i] != ':' : std::isxdigit(static_cast<unsigned char>(text[i])) == 0) return false;
  }
  // The first byte's lowest bit marks an address of many.
  return std::string_view("02468aceACE").find(text[1]) != std::string_view::npos && text != "00:00:00:00:00:00";
}

VmConfig parse_vm_config(const json& body) {
  JsonReader reader(body, "");
  VmConfig config;
  auto boot_loader = reader.object("boot_loader");
  if (!boot_loader) reader.refuse("boot_loader", "is missing");
  config.boot_loader = parse_boot_loader(*boot_loader);
  if (auto platform = reader.object("platform")) config.platform = parse_platform(*platform);
  config.cpus = static_cast<unsigned>(reader.number("cpus", 1, 1024));
  config.memory_mib = reader.number("memory_mib", 1, kMostMemoryMib);
  for (JsonReader& disk : reader.objects("disks")) config.disks.push_back(parse_disk(disk));
  for (JsonReader& nic : reader.objects("nics")) config.nics.push_back(parse_nic(nic));
  if (auto serial = reader.object("serial")) config.serial = parse_serial(*serial);
  for (JsonReader& port : reader.objects("console_ports")) config.console_ports.push_back(parse_console_port(port));
  config.entropy = reader.boolean_or("entropy", config.entropy);
  config.balloon = reader.boolean_or("balloon", config.balloon);
  if (auto vsock = reader.object("vsock")) config.vsock = parse_vsock(*vsock);
  for (JsonReader& share : reader.objects("shares")) config.shares.push_back(parse_share(share));
  if (auto graphics = reader.object("graphics")) config.graphics = parse_graphics(*graphics);
  if (auto audio = reader.object("audio")) config.audio = parse_audio(*audio);
  config.keyboard = static_cast<Keyboard>(reader.choice_or("keyboard", {"none", "usb", "mac"}, 0));
  config.pointing = static_cast<Pointing>(reader.choice_or("pointing", {"none", "usb", "mac-trackpad"}, 0));
  config.usb_controller = reader.boolean_or("usb_controller", config.usb_controller);
  reader.finish();
  check(config, reader);
  return config;
}

Disk parse_usb_disk(const json& body) {
  JsonReader reader(body, "");
  Disk disk;
  disk.kind = Disk::Kind::Usb;
  parse_source(reader, disk);
  if (disk.id.empty()) reader.refuse("id", "is missing");
  reader.finish();
  return disk;
}

}  // namespace vmtest::vz
