// vCPUs, memory and disks that grow and shrink while the guest runs.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "state_rules.h"
#include "vm.h"
#include "vmtest/cloud_hypervisor_driver.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

using cloud_hypervisor::ApiClient;
using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::uint64_t kMib = 1U << 20;
/// While the guest has not let go of vCPUs, it is not asked for anything else about them.
constexpr int kTooManyRequests = 429;
constexpr std::chrono::milliseconds kPendingPoll{20};

std::string in_mib(std::uint64_t bytes) { return std::to_string(bytes / kMib) + " MiB"; }

/// What it says of the machine; throws Error when that has not the form it should.
template <typename Take>
auto described(const ApiClient& api, const Deadline& deadline, Take&& take) -> decltype(take(json())) {
  const json info = api.info(deadline);
  try {
    return take(info);
  } catch (const json::exception& error) {
    throw Error(std::string("the answer to vm.info is not what Cloud Hypervisor's API describes: ") + error.what());
  }
}

struct DiskFile {
  /// What a guest sees.
  std::uint64_t size = 0;
  bool stands_on_another = false;
};

/// Raw or qcow2, whose header https://www.qemu.org/docs/master/interop/qcow2.html describes.
DiskFile look_at(const fs::path& file) {
  constexpr std::size_t kBackingFile = 8;
  constexpr std::size_t kSize = 24;
  const FileDescriptor disk = open_file(file, O_RDONLY);
  std::array<unsigned char, kSize + 8> head{};
  const ssize_t got = ::pread(disk.get(), head.data(), head.size(), 0);
  if (got != static_cast<ssize_t>(head.size()) || std::memcmp(head.data(), "QFI\xfb", 4) != 0) return {fs::file_size(file)};
  const auto number_at = [&](std::size_t place) {
    std::uint64_t number = 0;
    for (std::size_t i = place; i < place + 8; ++i) number = number << 8 | head[i];
    return number;
  };
  return {number_at(kSize), number_at(kBackingFile) != 0};
}

struct Room {
  std::uint64_t base = 0;
  std::uint64_t pluggable = 0;
  bool balloon = false;
};

Room room_of(const json& info) {
  const json& config = info.at("config");
  const json& memory = config.at("memory");
  const auto number = [&](const char* key) {
    const auto found = memory.find(key);
    return found == memory.end() || found->is_null() ? std::uint64_t{0} : found->get<std::uint64_t>();
  };
  return {number("size"), number("hotplug_size"), config.contains("balloon") && !config.at("balloon").is_null()};
}

void set_memory(const ApiClient& api, std::uint64_t wanted, const Deadline& deadline) {
  const Room room = described(api, deadline, room_of);
  if (wanted > room.base + room.pluggable)
    throw Error("it was started with room for " + in_mib(room.base + room.pluggable) + " (MachineConfig::max_memory_mib)");
  if (wanted < room.base && !room.balloon)
    throw Error("it was started with " + in_mib(room.base) + " and no balloon to take some away (MachineConfig::memory_balloon)");
  if (room.pluggable != 0) api.resize({.ram = std::max(wanted, room.base)}, deadline);
  if (room.balloon) api.resize({.balloon = wanted < room.base ? room.base - wanted : 0}, deadline);
}

}  // namespace

void CloudHypervisorDriver::resize_vcpus(const VmHandle& vm, unsigned vcpus, const Deadline& deadline) {
  const auto target = require_api(vm, "be resized");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be resized");
  with_context("cannot give VM \"" + vm.name + "\" " + std::to_string(vcpus) + " vCPUs", [&] {
    const auto most = described(target->api(), deadline,
                                [](const json& info) { return info.at("config").at("cpus").at("max_vcpus").get<unsigned>(); });
    if (vcpus == 0) throw Error("a machine has at least one");
    if (vcpus > most) throw Error("it was started with room for " + std::to_string(most) + " (MachineConfig::max_vcpus)");
    for (bool refused = false;; refused = true) {
      const char* const reason = "the guest does not let go of the vCPUs that it was asked for before";
      try {
        target->api().resize({.vcpus = vcpus}, deadline);
        return;
      } catch (const Refused& refusal) {
        if (refusal.status() != kTooManyRequests) throw;
        if (deadline.remaining() <= kPendingPoll) throw Timeout(reason);
      } catch (const Timeout&) {
        if (!refused) throw;
        throw Timeout(reason);  // the last question had no time left for its answer
      }
      std::this_thread::sleep_for(kPendingPoll);
    }
  });
}

void CloudHypervisorDriver::resize_memory(const VmHandle& vm, unsigned memory_mib, const Deadline& deadline) {
  const auto target = require_api(vm, "be resized");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be resized");
  with_context("cannot give VM \"" + vm.name + "\" " + std::to_string(memory_mib) + " MiB of memory",
               [&] { set_memory(target->api(), memory_mib * kMib, deadline); });
}

void CloudHypervisorDriver::resize_disk(const VmHandle& vm, const std::string& disk, std::uint64_t size_mib,
                                        const Deadline& deadline) {
  const auto target = require_api(vm, "be resized");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be resized");
  with_context("cannot resize disk \"" + disk + "\" of VM \"" + vm.name + "\"", [&] {
    const auto path = described(target->api(), deadline, [&](const json& info) {
      const json& config = info.at("config");
      if (config.contains("disks") && config.at("disks").is_array()) {
        for (const json& one : config.at("disks")) {
          if (one.value("id", "") == disk) return one.at("path").get<std::string>();
        }
      }
      throw Error("the machine has no disk \"" + disk + "\"");
    });
    const DiskFile file = look_at(path);
    if (size_mib * kMib <= file.size)
      throw Error("it has " + in_mib(file.size) + ", and disks only grow; " + std::to_string(size_mib) + " MiB are not more");
    if (file.stands_on_another) {
      throw Unsupported(
          "it stands on an image's or a template's, and Cloud Hypervisor resizes none such; a disk that is plugged in grows, and "
          "without a template (Template::Never) a data disk");
    }
    target->api().resize_disk(disk, size_mib * kMib, deadline);
  });
}

MachineSize CloudHypervisorDriver::size(const VmHandle& vm, const Deadline& deadline) {
  const auto target = require_api(vm, "tell its size");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "tell its size");
  return with_context("cannot tell the size of VM \"" + vm.name + "\"", [&] {
    return described(target->api(), deadline, [](const json& info) {
      MachineSize size;
      size.vcpus = info.at("config").at("cpus").at("boot_vcpus");
      size.memory_mib = static_cast<unsigned>(info.at("memory_actual_size").get<std::uint64_t>() / kMib);
      return size;
    });
  });
}

}  // namespace vmtest
