#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/machine_config.h"

/// What Cloud Hypervisor is told of a VM. One description has two forms, which say the same: the body of its API's requests and
/// the options of its command line. Names follow its OpenAPI description; what is left out keeps its default.
namespace vmtest::cloud_hypervisor {

enum class ImageType { Raw, Qcow2 };

/// A bucket of tokens, one an operation or a byte, filled anew over a time.
struct TokenBucket {
  std::uint64_t size = 0;
  /// Milliseconds; above 100, since an empty bucket cools down that long.
  std::uint64_t refill_time = 1000;
  std::optional<std::uint64_t> one_time_burst = {};
};
struct RateLimiterConfig {
  /// Bytes.
  std::optional<TokenBucket> bandwidth = {};
  /// Operations.
  std::optional<TokenBucket> ops = {};
};

struct CpuTopology {
  unsigned threads_per_core = 1;
  unsigned cores_per_die = 1;
  unsigned dies_per_package = 1;
  unsigned packages = 1;
};
struct CpusConfig {
  unsigned boot_vcpus = 1;
  /// Up to which vm.resize may go.
  unsigned max_vcpus = 1;
  std::optional<CpuTopology> topology = {};
};

enum class HotplugMethod { Acpi, VirtioMem };
struct MemoryConfig {
  /// Bytes.
  std::uint64_t size = 0;
  /// Shared with other processes: a must for directories by virtiofsd.
  bool shared = false;
  bool hugepages = false;
  /// Bytes that vm.resize may add.
  std::optional<std::uint64_t> hotplug_size = {};
  HotplugMethod hotplug_method = HotplugMethod::Acpi;
};

/// A kernel or a firmware.
struct PayloadConfig {
  std::filesystem::path firmware = {};
  std::filesystem::path kernel = {};
  std::filesystem::path initramfs = {};
  std::string cmdline = {};
};

struct DiskConfig {
  std::filesystem::path path;
  /// Always said: guessing it from the content lets a guest choose what the host opens.
  ImageType image_type = ImageType::Raw;
  bool readonly = false;
  /// Past the host's page cache.
  bool direct = false;
  /// Qcow2: whether what it stands on may be opened.
  bool backing_files = false;
  std::string id = {};
  std::string serial = {};
  RateLimiterConfig rate_limiter = {};
};

struct NetConfig {
  /// A TAP that is there. Empty: one is made, and gone with the process.
  std::string tap = {};
  /// The host's address on a TAP that is made.
  std::string ip = {};
  std::string mask = {};
  /// The host's MAC address on it.
  std::string host_mac = {};
  /// The guest's.
  std::string mac = {};
  std::string id = {};
};

/// Where the serial port or the console leads.
struct ConsoleConfig {
  enum class Mode { Off, Null, File, Socket };
  Mode mode = Mode::Null;
  /// The file, or the Unix socket that is made.
  std::filesystem::path path = {};
};

/// A directory of the host by virtiofsd, which listens on that socket.
struct FsConfig {
  std::string tag;
  std::filesystem::path socket;
  unsigned num_queues = 1;
  unsigned queue_size = 1024;
  std::string id = {};
};

/// vsock by a Unix socket that is made: see connect_vsock().
struct VsockConfig {
  /// The guest's, 3 or more.
  std::uint32_t cid = 3;
  std::filesystem::path socket;
  std::string id = {};
};

struct BalloonConfig {
  /// Bytes taken from the guest at its start.
  std::uint64_t size = 0;
  bool deflate_on_oom = true;
};

struct VmConfig {
  CpusConfig cpus = {};
  MemoryConfig memory = {};
  PayloadConfig payload = {};
  std::vector<DiskConfig> disks = {};
  std::vector<NetConfig> net = {};
  /// Where random numbers come from; none: the guest has no such device.
  std::optional<std::filesystem::path> rng_src = {};
  std::optional<BalloonConfig> balloon = {};
  std::vector<FsConfig> fs = {};
  ConsoleConfig serial = {};
  ConsoleConfig console = {.mode = ConsoleConfig::Mode::Off};
  std::optional<VsockConfig> vsock = {};
  /// Control socket of swtpm.
  std::filesystem::path tpm_socket = {};
  /// SMBIOS' system serial number.
  std::string serial_number = {};
  bool watchdog = false;
  bool pvpanic = false;
};

/// Names and places of a VM that its machine does not know.
struct Paths {
  /// Gets the sockets of companions.
  std::filesystem::path runtime_dir;
  /// The host's address on the first card's TAP, which is made; empty when that is there already.
  std::string gateway = {};
  /// For a boot by UEFI of a machine that names none.
  std::filesystem::path firmware = {};
};

/// Where the process makes them, each in a folder of its own: a VM that migrates keeps its description, and no two processes can
/// bind to one path.
inline constexpr const char* kSerialSocket = "serial.sock";
inline constexpr const char* kVsockSocket = "vsock.sock";
/// The guest's address on vsock, where its agent listens.
inline constexpr std::uint32_t kGuestCid = 3;
inline constexpr std::uint32_t kAgentPort = 5252;

/// The machine in Cloud Hypervisor's words: a pure function, nothing is looked up. Throws Unsupported for what it does not have:
/// a user-mode network, a BIOS, a display, memory in a file of ours.
[[nodiscard]] VmConfig vm_config(const MachineConfig& machine, const Paths& paths);

/// Its parts; `place` numbers the cards that the machine always had.
[[nodiscard]] DiskConfig disk_config(const vmtest::DiskConfig& disk);
[[nodiscard]] NetConfig net_config(const vmtest::NicConfig& nic, std::size_t place);

/// The body of vm.create.
[[nodiscard]] nlohmann::json to_json(const VmConfig& config);
/// The body of vm.add-disk, vm.add-net and the like.
[[nodiscard]] nlohmann::json to_json(const DiskConfig& disk);
[[nodiscard]] nlohmann::json to_json(const NetConfig& net);
[[nodiscard]] nlohmann::json to_json(const FsConfig& fs);
[[nodiscard]] nlohmann::json to_json(const VsockConfig& vsock);

/// `path=PATH`, as options that take a file or a socket want it. Throws like to_arguments().
[[nodiscard]] std::string path_option(const std::filesystem::path& path);
/// The options of the command line. What its parser would take apart is quoted; throws Error for a path or name that is not UTF-8
/// or has a NUL byte, which it cannot be given in any form.
[[nodiscard]] std::vector<std::string> to_arguments(const VmConfig& config);

}  // namespace vmtest::cloud_hypervisor
