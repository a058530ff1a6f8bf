// Moving a running guest into another Cloud Hypervisor on this host.

#include <algorithm>
#include <future>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "state_rules.h"
#include "version.h"
#include "vm.h"
#include "vmtest/cloud_hypervisor_driver.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace cloud_hypervisor {
namespace {

namespace fs = std::filesystem;

/// How soon a migration's end is seen, of which one of the two processes tells.
constexpr std::chrono::milliseconds kMigrationPoll{5};
/// A guest whose migration failed goes on in milliseconds, on a host that has CPU for it.
constexpr std::chrono::seconds kGoOnTime{20};
constexpr std::size_t kLogBytes = 2048;
constexpr std::size_t kLogLines = 6;

/// Whether somebody listens on a Unix socket of that path, asked without connecting: the first to connect is taken for the
/// sender.
bool is_listened_on(const fs::path& socket) {
  std::istringstream lines(read_file("/proc/net/unix"));
  const std::string end = " " + socket.string();
  for (std::string line; std::getline(lines, line);) {
    // The flag is the kernel's __SO_ACCEPTCON.
    if (line.ends_with(end) && line.find(" 00010000 ") != std::string::npos) return true;
  }
  return false;
}

}  // namespace

MigrationReport ApiVm::migrate(const MachineConfig& machine, const Deadline& deadline) {
  if (!machine.extra_arguments.empty()) {
    throw Unsupported("extra arguments may bring devices that the second process would not have");
  }
  if (!machine.shared_folders.empty() || machine.tpm) throw Unsupported("shared folders and a TPM do not move");
  for (const NicConfig& nic : machine.nics) {
    if (nic.host_address.empty() && !nic.tap_name.empty()) {
      throw Unsupported("Cloud Hypervisor opens the TAP \"" + nic.tap_name +
                        "\" by its name, and the second process finds it busy while the first one lives; leave its name out");
    }
  }
  const MigrationWay way = migration_way(api_.ping(deadline).version);
  const fs::path folder = make_folder();
  const fs::path next_events = handle().work_dir / "events-next.json";
  SupervisedProcess second;
  second.argv = {find_cloud_hypervisor().string(), "--api-socket", path_option(folder / kApiSocket), "--event-monitor",
                 path_option(next_events)};
  second.log_file = kLog;
  second.directory = folder;
  second.serial = kSerialSocket;
  const ApiClient target(folder / kApiSocket);
  const fs::path meeting = folder / kMigrationSocket;
  const std::string url = "unix:" + meeting.string();
  const auto failures = [this] {
    const std::vector<Event> all = events();
    return std::count(all.begin(), all.end(), Event{"vm", "migration-failed"});
  };
  const auto failures_before = failures();
  const auto began = std::chrono::steady_clock::now();
  MigrationReport report;
  bool sent = false;
  std::future<void> arrival;
  try {
    move_to_second_process(
        std::move(second),
        [&](const AwaitUp& await_up) {
          await_up([&] {
            require_version(target.ping(Deadline::after(kAnswerTime)).version);
            return true;
          });
          arrival = std::async(std::launch::async, [&] { target.receive_migration({.url = url}, deadline); });
          const auto arrived = [&] { return arrival.wait_for(kMigrationPoll) == std::future_status::ready; };
          const auto check = [&] {
            if (deadline.expired()) throw Timeout("the guest does not arrive");
          };
          while (!is_listened_on(meeting) && !arrived()) check();
          sent = true;
          SendMigration request{.url = url};
          const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(deadline.remaining()).count();
          if (way.takes_limits) request.timeout_s = static_cast<unsigned>(std::max<std::int64_t>(seconds, 1));
          api_.send_migration(request, deadline);
          while (!arrived()) {
            check();
            if (way.answers_at_once && failures() != failures_before) throw Error("the guest does not leave");
          }
          arrival.get();
          if (const State now = target.state(deadline); now != State::Running) throw Error("the guest arrived and does not run");
          report.total = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - began);
        },
        [] {});  // the first one ends by itself
  } catch (...) {
    const std::string words = last_lines(read_file_tail(handle().work_dir / kLog, kLogBytes), kLogLines);
    if (sent) await_return();
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    fs::remove(next_events, ignored);
    try {
      throw;
    } catch (const Timeout&) {
      throw;
    } catch (const std::exception& error) {
      // Its answers do not say why; its log does.
      throw Error(std::string(error.what()) + (words.empty() ? "" : "\n" + indent(sanitize_console(words), "  ")));
    }
  }
  fs::rename(next_events, event_file());
  fs::rename(folder / kApiSocket, handle().runtime_dir / kApiSocket);
  leave_folder();
  enter_folder(folder);
  return report;
}

void ApiVm::await_return() const {
  const Deadline deadline = Deadline::after(kGoOnTime);
  while (!deadline.expired()) {
    try {
      // Refused as long as the guest is on its way.
      (void)api_.counters(deadline);
      return;
    } catch (const Refused&) {
      std::this_thread::sleep_for(kMigrationPoll);
    } catch (const std::exception&) {  // it has ended, as its report tells
      return;
    }
  }
}

}  // namespace cloud_hypervisor

MigrationReport CloudHypervisorDriver::migrate(const VmHandle& vm, const MachineConfig& machine, const Deadline& deadline) {
  const auto target = require_api(vm, "be migrated");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be migrated");
  return with_context("cannot migrate VM \"" + vm.name + "\"", [&] { return target->migrate(machine, deadline); });
}

}  // namespace vmtest
