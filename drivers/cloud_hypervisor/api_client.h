#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "http/json_api.h"
#include "vm_config.h"
#include "vmtest/deadline.h"

namespace vmtest::cloud_hypervisor {

struct Ping {
  std::string version;
  std::string build_version;
  std::optional<std::int64_t> pid;
  std::vector<std::string> features;
};

/// States of its own, as its API describes them. A VM that was shut down while its description stays is said to be Created again,
/// by the versions whose source was read.
enum class State { Created, Running, Shutdown, Paused, BreakPoint };

struct PciDeviceInfo {
  std::string id;
  /// Its place on the guest's bus: "0000:00:06.0".
  std::string bdf;
};

struct Resize {
  std::optional<unsigned> vcpus = {};
  /// Bytes.
  std::optional<std::uint64_t> ram = {};
  std::optional<std::uint64_t> balloon = {};
};

enum class MemoryRestoreMode { Copy, OnDemand };
struct Restore {
  /// Folder with config.json, memory-ranges and state.json.
  std::filesystem::path folder;
  bool resume = false;
  bool prefault = false;
  std::optional<MemoryRestoreMode> memory_mode = {};
};

enum class MigrationMode { Precopy, Postcopy };
struct ReceiveMigration {
  /// "unix:/path" or "tcp:host:port".
  std::string url;
  std::filesystem::path tls_dir = {};
  std::optional<MigrationMode> mode = {};
};
struct SendMigration {
  std::string url;
  /// Hands memory over by descriptor on the same host; it must be shared or of huge pages.
  bool local = false;
  std::optional<unsigned> downtime_ms = {};
  std::optional<unsigned> timeout_s = {};
  std::optional<unsigned> connections = {};
  std::filesystem::path tls_dir = {};
  std::optional<MigrationMode> mode = {};
};

struct GenericVhostUser {
  std::filesystem::path socket;
  unsigned device_type = 0;
  std::vector<unsigned> queue_sizes;
  std::string id = {};
};
struct Pmem {
  std::filesystem::path file;
  std::optional<std::uint64_t> size = {};
  bool discard_writes = false;
  std::string id = {};
};
struct Vdpa {
  std::filesystem::path path;
  unsigned num_queues = 1;
  std::string id = {};
};

/// Cloud Hypervisor's API (https://github.com/cloud-hypervisor/cloud-hypervisor, vmm/src/api/openapi), one call an endpoint. All
/// throw Refused when it refuses, Timeout when it does not answer by the deadline, std::system_error when nobody listens and
/// Error when what comes is no answer. May be used by several threads at once.
class ApiClient {
 public:
  /// The server listens on that Unix socket.
  explicit ApiClient(std::filesystem::path socket) : api_("Cloud Hypervisor", std::move(socket)) {}

  [[nodiscard]] Ping ping(const Deadline& deadline) const;
  /// Ends the process, without a word to the guest.
  void shutdown_vmm(const Deadline& deadline) const;

  /// Only stores the description; boot() starts it.
  void create(const VmConfig& config, const Deadline& deadline) const;
  void remove(const Deadline& deadline) const;
  void boot(const Deadline& deadline) const;
  void pause(const Deadline& deadline) const;
  void resume(const Deadline& deadline) const;
  /// Takes vCPUs and devices away at once: this is not the guest's own way down, which press_power_button() asks for.
  void shutdown(const Deadline& deadline) const;
  /// Boots the same description anew, without a word to the guest.
  void reboot(const Deadline& deadline) const;
  void press_power_button(const Deadline& deadline) const;
  void inject_nmi(const Deadline& deadline) const;

  [[nodiscard]] State state(const Deadline& deadline) const;
  /// Description, state, memory_actual_size and device_tree, as it says them.
  [[nodiscard]] nlohmann::json info(const Deadline& deadline) const;
  /// Per device what it counts, device and counter by their names.
  [[nodiscard]] nlohmann::json counters(const Deadline& deadline) const;

  void resize(const Resize& sizes, const Deadline& deadline) const;
  void resize_disk(const std::string& id, std::uint64_t bytes, const Deadline& deadline) const;
  void resize_zone(const std::string& id, std::uint64_t bytes, const Deadline& deadline) const;

  /// Before the boot a device becomes a part of the description, and there is nothing to return.
  std::optional<PciDeviceInfo> add_device(const std::filesystem::path& sysfs, const std::string& id,
                                          const Deadline& deadline) const;
  std::optional<PciDeviceInfo> add_disk(const DiskConfig& disk, const Deadline& deadline) const;
  std::optional<PciDeviceInfo> add_fs(const FsConfig& fs, const Deadline& deadline) const;
  std::optional<PciDeviceInfo> add_generic_vhost_user(const GenericVhostUser& device, const Deadline& deadline) const;
  std::optional<PciDeviceInfo> add_net(const NetConfig& net, const Deadline& deadline) const;
  std::optional<PciDeviceInfo> add_pmem(const Pmem& pmem, const Deadline& deadline) const;
  std::optional<PciDeviceInfo> add_user_device(const std::filesystem::path& socket, const Deadline& deadline) const;
  std::optional<PciDeviceInfo> add_vdpa(const Vdpa& vdpa, const Deadline& deadline) const;
  std::optional<PciDeviceInfo> add_vsock(const VsockConfig& vsock, const Deadline& deadline) const;
  void remove_device(const std::string& id, const Deadline& deadline) const;

  /// Paused only; the folder must exist.
  void snapshot(const std::filesystem::path& folder, const Deadline& deadline) const;
  /// There must be no VM; the restored one is paused unless it is to go on, which v51 does not know yet.
  void restore(const Restore& restore, const Deadline& deadline) const;
  /// Builds for debugging guests only: others answer 404.
  void dump_core(const std::filesystem::path& file, const Deadline& deadline) const;
  void receive_migration(const ReceiveMigration& migration, const Deadline& deadline) const;
  /// Returns at once since v53, where events tell of its end; before, when it is over. See migration_way().
  void send_migration(const SendMigration& migration, const Deadline& deadline) const;

 private:
  std::optional<PciDeviceInfo> add(const char* endpoint, const nlohmann::json& body, const Deadline& deadline) const;

  JsonApi api_;
};

}  // namespace vmtest::cloud_hypervisor
