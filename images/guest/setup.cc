#include "guest/setup.h"

#include <fcntl.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#include "guest/agent.h"
#include "guest/console.h"
#include "guest/devices.h"
#include "guest/files.h"
#include "guest/iso_reader.h"
#include "guest/openssh_key.h"
#include "guest/services.h"
#include "guest/users.h"

namespace vmtest::guest {
namespace {

constexpr const char* kSeedLabel = "cidata";
constexpr const char* kInstanceFile = "/var/lib/vmtest/instance-id";
constexpr std::uint64_t kSector = 512;
/// EXT4_IOC_RESIZE_FS, which is not in the headers that programs see; from the kernel's documentation of ext4.
constexpr unsigned long kResizeFileSystem = _IOW('f', 16, std::uint64_t);
/// A disk this much larger than its file system was made larger since; tables and journal take less.
constexpr std::uint64_t kGrowFromPercent = 120;
constexpr const char* kMachineIdFile = "/etc/machine-id";

std::string require_file(const IsoReader& iso, const std::string& name) {
  std::optional<std::string> text = iso.find(name);
  if (!text) {
    throw std::runtime_error("the seed has no file " + name);
  }
  return std::move(*text);
}

void make_machine_id() {
  std::array<unsigned char, 16> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    fail_errno("cannot draw a machine id");
  }
  static constexpr std::string_view kHex = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) {
    text += kHex[byte >> 4];
    text += kHex[byte & 15];
  }
  write_file(kMachineIdFile, text + "\n", 0444);
}

}  // namespace

std::optional<Seed> find_seed() {
  for (const std::string& node : block_devices()) {
    const Descriptor device(open(node.c_str(), O_RDONLY | O_CLOEXEC));
    const std::optional<IsoReader> iso = device ? IsoReader::open(device.get()) : std::nullopt;
    if (iso && strcasecmp(iso->label().c_str(), kSeedLabel) == 0) {
      return parse_seed({require_file(*iso, "meta-data"), require_file(*iso, "user-data"), iso->find("network-config")});
    }
  }
  return std::nullopt;
}

void set_hostname(const std::string& hostname) {
  if (sethostname(hostname.c_str(), hostname.size()) != 0) {
    report_error("hostname", "the kernel refuses \"" + hostname + "\"");
  }
  if (find_file("/etc/hostname") == hostname + "\n") {
    return;
  }
  write_file("/etc/hostname", hostname + "\n", 0644);
  write_file("/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n", 0644);
}

bool reads_seed_at_each_boot() { return access(kInstanceFile, F_OK) == 0; }

bool instance_is_known(const std::string& instance_id) { return find_file(kInstanceFile) == instance_id; }

void remember_instance(const std::string& instance_id) { write_file(kInstanceFile, instance_id, 0644); }

void apply_seed(const Seed& seed) {
  make_machine_id();
  if (!seed.host_key.empty()) {
    write_file(kHostKeyFile, dropbear_key(seed.host_key), 0600);
  }
  for (const SeedUser& user : seed.users) {
    set_up_user(user);
  }
  for (const SeedFile& file : seed.files) {
    write_seed_file(file);
  }
  // Once, whether or not one of the files was to bring it.
  overwrite_file("/etc/hosts", rename_in_hosts(find_file("/etc/hosts").value_or(""), seed.hostname), 0644);
}

void grow_root() {
  struct stat info {};
  struct statvfs space {};
  if (stat("/", &info) != 0 || statvfs("/", &space) != 0) {
    fail_errno("cannot look at the root file system");
  }
  const std::string device = "/sys/dev/block/" + std::to_string(major(info.st_dev)) + ":" + std::to_string(minor(info.st_dev));
  const std::uint64_t disk = std::strtoull(find_file(device + "/size").value_or("").c_str(), nullptr, 10) * kSector;
  // What the file system counts leaves its own tables out.
  if (disk < space.f_blocks * space.f_frsize / 100 * kGrowFromPercent) {
    return;
  }
  const Descriptor root(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  std::uint64_t blocks = disk / space.f_bsize;
  if (!root || ioctl(root.get(), kResizeFileSystem, &blocks) != 0) {
    fail_errno("cannot make the root file system as large as its disk");
  }
}

void ensure_host_key() {
  if (access(kHostKeyFile, F_OK) == 0) {
    return;
  }
  make_folders("/etc/dropbear");
  const int status = run_program({"dropbearkey", "-t", "ed25519", "-f", kHostKeyFile}, "/dev/null");
  if (status != 0) {
    throw std::runtime_error("dropbearkey: " + describe_status(status));
  }
}

}  // namespace vmtest::guest
