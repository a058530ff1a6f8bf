#include "qemu_migration.h"

#include <cstdint>
#include <filesystem>
#include <thread>

#include "qemu_vm.h"
#include "state_rules.h"
#include "vmtest/error.h"
#include "vmtest/host/text.h"
#include "vmtest/qemu_driver.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// QEMU tells nobody when a migration is over unless asked: this is how often we ask.
constexpr std::chrono::microseconds kMigrationPoll{500};
/// Bytes a second.
constexpr std::int64_t kUnlimited = std::int64_t{1} << 40;
/// An ended migration's guest goes on in milliseconds, on a host that has CPU for it.
constexpr std::chrono::seconds kGoOnTime{20};
constexpr std::size_t kFolderDigits = 4;

std::string status_of(const json& migration) { return migration.value("status", "none"); }

/// A folder for the sockets of the second QEMU, which cannot have the first one's places until that has ended.
class PassingFolder {
 public:
  explicit PassingFolder(const fs::path& parent) : path_(parent / ("m" + random_hex(kFolderDigits))) {
    fs::create_directory(path_);
  }
  ~PassingFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  PassingFolder(const PassingFolder&) = delete;
  PassingFolder& operator=(const PassingFolder&) = delete;

  [[nodiscard]] fs::path operator/(const char* name) const { return path_ / name; }
  [[nodiscard]] const fs::path& path() const { return path_; }
  /// Moves the sockets to where the first QEMU had its own, which it removed at its end.
  void move_sockets_to(const fs::path& folder) const {
    for (const auto& entry : fs::directory_iterator(path_)) fs::rename(entry.path(), folder / entry.path().filename());
  }

 private:
  fs::path path_;
};

}  // namespace

void set_shared_memory(QmpClient& qemu, SharedMemory memory, const Deadline& deadline) {
  const json capability = {{"capability", kIgnoreShared}, {"state", memory == SharedMemory::LeftOut}};
  qemu.execute("migrate-set-capabilities", {{"capabilities", json::array({capability})}}, deadline);
}

void prepare_to_send(QmpClient& qemu, SharedMemory memory, const Deadline& deadline) {
  set_shared_memory(qemu, memory, deadline);
  qemu.execute("migrate-set-parameters", {{"max-bandwidth", kUnlimited}}, deadline);
}

void call_off(QmpClient& qemu, const Deadline& deadline) {
  qemu.execute("migrate_cancel", deadline);
  for (;;) {
    const std::string status = status_of(qemu.execute("query-migrate", deadline));
    if (status == "none" || status == "completed" || status == "failed" || status == "cancelled") return;
    if (deadline.expired()) throw Timeout("a migration that was called off is " + status);
    std::this_thread::sleep_for(kMigrationPoll);
  }
}

json wait_migrated(QmpClient& qemu, const char* what, const Deadline& deadline) {
  for (;;) {
    json state = qemu.execute("query-migrate", deadline);
    const std::string status = status_of(state);
    if (status == "completed") return state;
    if (status == "failed" || status == "cancelled") throw Error(std::string(what) + ": " + state.value("error-desc", status));
    if (deadline.expired()) throw Timeout(std::string(what) + ": it is " + status);
    std::this_thread::sleep_for(kMigrationPoll);
  }
}

MigrationReport QemuVm::migrate(const MachineConfig& machine, const Deadline& deadline) {
  if (machine.memory_file && machine.memory_file->mapping == MemoryFile::Mapping::Shared) {
    throw Unsupported("its memory is a file that two processes would write to: the VM is to become a template");
  }
  if (machine.vnc) throw Unsupported("a display does not move");
  if (!machine.shared_folders.empty() || machine.tpm) throw Unsupported("shared folders and a TPM do not move");
  const auto source = qmp(deadline);
  const PassingFolder folder(handle().runtime_dir);
  QemuPaths paths{.work_dir = handle().work_dir, .runtime_dir = folder.path()};
  // The port leads to the first QEMU until that has ended.
  paths.ssh_port = 0;
  paths.awaits_guest = true;
  // The guest stays the same one, which its kernel must not take for another.
  if (machine.architecture == Architecture::X86_64) {
    paths.generation_id = source->execute("query-vm-generation-id", deadline).at("guid");
  }
  const std::string uri = "unix:" + (folder / "migration").string();
  std::shared_ptr<QmpClient> target;
  json sent;
  bool moved = false;
  try {
    move_to_second_process(
        describe(machine, paths),
        [&](const AwaitUp& await_up) {
          await_up([&] {
            target = QmpClient::connect(folder / kQmpSocket, deadline);
            return true;
          });
          set_shared_memory(*target, SharedMemory::Sent, deadline);
          target->execute("migrate-incoming", {{"uri", uri}}, deadline);
          prepare_to_send(*source, SharedMemory::Sent, deadline);
          source->execute("migrate", {{"uri", uri}}, deadline);
          sent = wait_migrated(*source, "the guest does not leave", deadline);
          (void)wait_migrated(*target, "the guest does not arrive", deadline);
          target->execute("cont", deadline);
          moved = true;
        },
        [&] {
          {
            const std::lock_guard lock(mutex_);
            qmp_ = target;
          }
          try {
            source->execute("quit", Deadline::after(kGoOnTime));
          } catch (const std::exception&) {  // it may be gone before it answers; what does not go is killed
          }
        });
  } catch (...) {
    if (!moved && source->broken().empty()) {
      const Deadline soon = Deadline::after(kGoOnTime);
      call_off(*source, soon);
      source->execute("cont", soon);
    }
    throw;
  }
  folder.move_sockets_to(handle().runtime_dir);
  if (const auto netdev = forwarding_netdev(machine); netdev && handle().ssh_port != 0) {
    const std::string forward = *netdev + " tcp:127.0.0.1:" + std::to_string(handle().ssh_port) + "-:22";
    const std::string answer =
        target->execute("human-monitor-command", {{"command-line", "hostfwd_add " + forward}}, Deadline::after(kGoOnTime));
    if (!answer.empty()) throw Error("the port for SSH does not lead to the guest any more: " + answer);
  }
  MigrationReport report;
  report.total = std::chrono::milliseconds(sent.value("total-time", std::int64_t{0}));
  report.downtime = std::chrono::milliseconds(sent.value("downtime", std::int64_t{0}));
  report.memory_bytes = sent.value("/ram/transferred"_json_pointer, std::uint64_t{0});
  return report;
}

MigrationReport QemuDriver::migrate(const VmHandle& vm, const MachineConfig& machine, const Deadline& deadline) {
  const auto target = require_qemu(vm, "be migrated");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be migrated");
  return with_context("cannot migrate VM \"" + vm.name + "\"", [&] { return target->migrate(machine, deadline); });
}

}  // namespace vmtest
