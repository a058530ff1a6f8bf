// What a VM's devices count, and what a debugger wants of it.

#include <fcntl.h>

#include <array>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "network/tap.h"
#include "qemu_vm.h"
#include "state_rules.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/qemu_driver.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// QEMU's name and ours.
constexpr std::array<std::pair<const char*, const char*>, 5> kDiskCounters = {{{"rd_bytes", "read_bytes"},
                                                                               {"wr_bytes", "write_bytes"},
                                                                               {"rd_operations", "read_ops"},
                                                                               {"wr_operations", "write_ops"},
                                                                               {"flush_operations", "flush_ops"}}};
/// What the host receives the guest has sent.
constexpr std::array<std::pair<const char*, const char*>, 4> kCardCounters = {
    {{"tx_bytes", "rx_bytes"}, {"rx_bytes", "tx_bytes"}, {"tx_packets", "rx_frames"}, {"rx_packets", "tx_frames"}}};

/// "root" of "/machine/peripheral/root/virtio-backend", the place of a device with an id of ours.
std::string device_of(const std::string& place) {
  constexpr std::string_view kStart = "/machine/peripheral/";
  if (place.rfind(kStart, 0) != 0) return {};
  const std::string rest = place.substr(kStart.size());
  return rest.substr(0, rest.find('/'));
}

void add_disks(const json& stats, std::vector<Counter>& counters) {
  for (const json& entry : stats) {
    const std::string disk = device_of(entry.value("qdev", ""));
    if (disk.empty()) continue;
    for (const auto& [theirs, ours] : kDiskCounters)
      counters.push_back({disk, ours, entry.at("stats").at(theirs).get<std::uint64_t>()});
  }
}

/// Cards on TAPs: what the other half of each is called, and the descriptor that QEMU has of its TAP. QEMU tells a person only:
/// "net0: index=0,type=tap,fd=27".
std::map<std::string, std::string> taps_in(const std::string& text) {
  std::map<std::string, std::string> descriptors;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t kind = line.find(",type=tap,fd=");
    const std::size_t end = line.find(": index=");
    if (kind == std::string::npos || end == std::string::npos) continue;
    const std::size_t start = line.find_last_of(" \\", end) + 1;
    const std::size_t number = line.find("fd=", kind) + 3;
    descriptors[line.substr(start, end - start)] = line.substr(number, line.find_first_not_of("0123456789", number) - number);
  }
  return descriptors;
}

void add_cards(const std::string& network, pid_t qemu, std::vector<Counter>& counters) {
  for (const auto& [card, descriptor] : taps_in(network)) {
    const std::string tap = tap_of_descriptor(qemu, descriptor);
    if (tap.empty()) continue;
    for (const auto& [theirs, ours] : kCardCounters) {
      const std::string text = read_file(fs::path("/sys/class/net") / tap / "statistics" / theirs);
      counters.push_back({card, ours, std::stoull(text)});
    }
  }
}

}  // namespace

std::vector<Counter> QemuDriver::counters(const VmHandle& vm, const Deadline& deadline) {
  const auto target = require_qemu(vm, "tell what it counts");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running, VmState::Suspended}, "tell what it counts");
  return with_context("cannot tell what VM \"" + vm.name + "\" counts", [&] {
    const auto qemu = target->qmp(deadline);
    std::vector<Counter> counters;
    add_disks(qemu->execute("query-blockstats", deadline), counters);
    const json network = qemu->execute("human-monitor-command", {{"command-line", "info network"}}, deadline);
    add_cards(network, target->supervisor().status().processes.at("qemu"), counters);
    return counters;
  });
}

void QemuDriver::inject_nmi(const VmHandle& vm, const Deadline& deadline) {
  const auto target = require_qemu(vm, "be interrupted");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be interrupted");
  with_context("cannot interrupt VM \"" + vm.name + "\"", [&] { target->qmp(deadline)->execute("inject-nmi", deadline); });
}

void QemuDriver::dump_memory(const VmHandle& vm, const fs::path& file, const Deadline& deadline) {
  const auto target = require_qemu(vm, "be dumped");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running, VmState::Suspended}, "be dumped");
  with_context("cannot dump the memory of VM \"" + vm.name + "\"", [&] {
    const auto qemu = target->qmp(deadline);
    const FileDescriptor core = open_file(file, O_WRONLY | O_CREAT | O_EXCL, 0600);
    try {
      qemu->pass_descriptor("core", core.get(), deadline);
      qemu->execute("dump-guest-memory", {{"paging", false}, {"protocol", "fd:core"}}, deadline);
    } catch (...) {
      std::error_code ignored;
      fs::remove(file, ignored);
      throw;
    }
  });
}

}  // namespace vmtest
