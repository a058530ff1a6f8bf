// vCPUs, memory and disks that grow and shrink while the guest runs.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "qemu_command_line.h"
#include "qemu_vm.h"
#include "state_rules.h"
#include "vmtest/error.h"
#include "vmtest/qemu_driver.h"

namespace vmtest {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMib = 1U << 20;

bool is_present(const json& slot) { return slot.contains("qom-path"); }

/// The places for vCPUs, the lowest first.
std::vector<json> vcpu_slots(QmpClient& qemu, const Deadline& deadline) {
  auto slots = qemu.execute("query-hotpluggable-cpus", deadline).get<std::vector<json>>();
  const auto place = [](const json& slot) {
    std::vector<int> numbers;
    for (const char* key : {"socket-id", "die-id", "core-id", "thread-id"}) numbers.push_back(slot.at("props").value(key, 0));
    return numbers;
  };
  std::sort(slots.begin(), slots.end(), [&](const json& a, const json& b) { return place(a) < place(b); });
  return slots;
}

unsigned count_present(const std::vector<json>& slots) {
  return static_cast<unsigned>(std::count_if(slots.begin(), slots.end(), is_present));
}

void add_vcpus(QmpClient& qemu, const std::vector<json>& slots, unsigned more, const Deadline& deadline) {
  for (std::size_t i = 0; i < slots.size() && more > 0; ++i) {
    if (is_present(slots[i])) continue;
    json device = slots[i].at("props");
    device["driver"] = slots[i].at("type");
    device["id"] = plugged_vcpu(i);
    qemu.execute("device_add", device, deadline);
    --more;
  }
}

std::string in_mib(std::uint64_t bytes) { return std::to_string(bytes / kMib) + " MiB"; }

std::uint64_t base_memory(QmpClient& qemu, const Deadline& deadline) {
  return qemu.execute("query-memory-size-summary", deadline).at("base-memory");
}

/// What the balloon leaves of the machine's own memory; none when there is no balloon.
std::optional<std::uint64_t> memory_beside_balloon(QmpClient& qemu, const Deadline& deadline) {
  try {
    return qemu.execute("query-balloon", deadline).at("actual").get<std::uint64_t>();
  } catch (const QmpError&) {
    return std::nullopt;
  }
}

/// The largest size of the virtio-mem device; none when there is no such device.
std::optional<std::uint64_t> pluggable_memory(QmpClient& qemu, const Deadline& deadline) {
  for (const json& device : qemu.execute("query-memory-devices", deadline)) {
    const json& data = device.at("data");
    if (device.at("type") == "virtio-mem" && data.value("id", "") == kPluggedMemory) return data.at("max-size");
  }
  return std::nullopt;
}

void set_memory(QmpClient& qemu, std::uint64_t wanted, const Deadline& deadline) {
  const std::uint64_t base = base_memory(qemu, deadline);
  const auto pluggable = pluggable_memory(qemu, deadline);
  const bool has_balloon = memory_beside_balloon(qemu, deadline).has_value();
  if (wanted > base + pluggable.value_or(0)) {
    throw Error("it was started with room for " + in_mib(base + pluggable.value_or(0)) + " (MachineConfig::max_memory_mib)");
  }
  if (wanted < base && !has_balloon) {
    throw Error("it was started with " + in_mib(base) + " and no balloon to take some away (MachineConfig::memory_balloon)");
  }
  if (pluggable) {
    const std::uint64_t plugged = wanted > base ? wanted - base : 0;
    const std::string path = std::string("/machine/peripheral/") + kPluggedMemory;
    qemu.execute("qom-set", {{"path", path}, {"property", "requested-size"}, {"value", plugged}}, deadline);
  }
  if (has_balloon) qemu.execute("balloon", {{"value", std::min(wanted, base)}}, deadline);
}

}  // namespace

void QemuDriver::resize_vcpus(const VmHandle& vm, unsigned vcpus, const Deadline& deadline) {
  const auto target = require_qemu(vm, "be resized");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be resized");
  with_context("cannot give VM \"" + vm.name + "\" " + std::to_string(vcpus) + " vCPUs", [&] {
    const auto qemu = target->qmp(deadline);
    const std::vector<json> slots = vcpu_slots(*qemu, deadline);
    const unsigned present = count_present(slots);
    if (vcpus == 0) throw Error("a machine has at least one");
    if (vcpus > slots.size()) {
      throw Error("it was started with room for " + std::to_string(slots.size()) + " (MachineConfig::max_vcpus)");
    }
    if (vcpus < present) {
      throw Unsupported("it has " + std::to_string(present) +
                        ", and QEMU does not take any away: under emulation it keeps hold of a vCPU that is gone, and crashes");
    }
    add_vcpus(*qemu, slots, vcpus - present, deadline);
  });
}

void QemuDriver::resize_memory(const VmHandle& vm, unsigned memory_mib, const Deadline& deadline) {
  const auto target = require_qemu(vm, "be resized");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be resized");
  with_context("cannot give VM \"" + vm.name + "\" " + std::to_string(memory_mib) + " MiB of memory",
               [&] { set_memory(*target->qmp(deadline), memory_mib * kMib, deadline); });
}

void QemuDriver::resize_disk(const VmHandle& vm, const std::string& disk, std::uint64_t size_mib, const Deadline& deadline) {
  const auto target = require_qemu(vm, "be resized");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be resized");
  with_context("cannot resize disk \"" + disk + "\" of VM \"" + vm.name + "\"", [&] {
    const auto qemu = target->qmp(deadline);
    const json node = top_node(qemu->execute("query-block", deadline), disk);
    const std::uint64_t present = node.at("image").at("virtual-size");
    if (size_mib * kMib <= present)
      throw Error("it has " + in_mib(present) + ", and disks only grow; " + std::to_string(size_mib) + " MiB are not more");
    qemu->execute("block_resize", {{"node-name", node.at("node-name")}, {"size", size_mib * kMib}}, deadline);
  });
}

MachineSize QemuDriver::size(const VmHandle& vm, const Deadline& deadline) {
  const auto target = require_qemu(vm, "tell its size");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "tell its size");
  return with_context("cannot tell the size of VM \"" + vm.name + "\"", [&] {
    const auto qemu = target->qmp(deadline);
    const json summary = qemu->execute("query-memory-size-summary", deadline);
    const std::uint64_t base = summary.at("base-memory");
    const std::uint64_t own = memory_beside_balloon(*qemu, deadline).value_or(base);
    MachineSize size;
    size.vcpus = count_present(vcpu_slots(*qemu, deadline));
    size.memory_mib = static_cast<unsigned>((own + summary.value("plugged-memory", std::uint64_t{0})) / kMib);
    return size;
  });
}

}  // namespace vmtest
