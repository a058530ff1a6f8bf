#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nat_network.h"
#include "qemu/qmp_client.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest::vz::standin {

/// A QEMU that is the machine of a stand-in VM. It ends with this, and with the thread that made it.
class QemuProcess {
 public:
  struct Options {
    std::vector<std::string> arguments;
    std::vector<std::pair<int, int>> descriptors;
    /// QEMU's ends of our connections, closed here once it has them: its own closing is to be seen.
    std::vector<FileDescriptor> ends;
    FileDescriptor monitor;
    FileDescriptor agent;
    /// Kept as long as this.
    std::vector<std::shared_ptr<NatNetwork>> networks = {};
    /// Commands that complete the machine: (name, arguments).
    std::vector<std::pair<std::string, nlohmann::json>> commands;
    /// Told once when the guest has stopped (empty), or QEMU has ended in another way (how). By a thread of this.
    std::function<void(const std::string& failure)> on_end;
  };
  /// Starts QEMU, with its vCPUs standing still.
  explicit QemuProcess(Options options);
  QemuProcess(const QemuProcess&) = delete;
  QemuProcess& operator=(const QemuProcess&) = delete;
  ~QemuProcess();

  void run() { command("cont"); }
  void pause() { command("stop"); }
  void power_button() { command("system_powerdown"); }
  void set_balloon(std::uint64_t bytes) { command("balloon", {{"value", bytes}}); }
  /// Writes memory and devices to a file. The vCPUs stand still before and after.
  void save(const std::string& path);
  /// Reads them; QEMU was started with "-incoming defer".
  void restore(const std::string& path);
  void attach_usb(const std::string& id, const nlohmann::json& block_node);
  void detach_usb(const std::string& id);
  /// A stream to the guest's agent port, one at a time. Throws Error.
  [[nodiscard]] FileDescriptor connect_agent();

 private:
  nlohmann::json command(const std::string& name, const nlohmann::json& arguments = nlohmann::json::object());
  void await_migration(const char* what);
  void watch();
  void bridge(FileDescriptor stream);

  Options options_;
  ChildProcess process_;
  std::unique_ptr<QmpClient> monitor_;
  std::thread watcher_;
  std::mutex bridge_mutex_;
  bool bridge_busy_ = false;
  Pipe bridge_stop_;
  std::thread bridge_;
};

}  // namespace vmtest::vz::standin
