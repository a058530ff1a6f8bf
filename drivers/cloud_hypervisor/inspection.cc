// What a VM's devices count, and what a debugger wants of it.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "state_rules.h"
#include "vm.h"
#include "vmtest/cloud_hypervisor_driver.h"
#include "vmtest/error.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What builds for debugging guests say they have.
constexpr const char* kGuestDebug = "guest_debug";

}  // namespace

std::vector<Counter> CloudHypervisorDriver::counters(const VmHandle& vm, const Deadline& deadline) {
  const auto target = require_api(vm, "tell what it counts");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running, VmState::Suspended}, "tell what it counts");
  return with_context("cannot tell what VM \"" + vm.name + "\" counts", [&] {
    std::vector<Counter> counters;
    const json answer = target->api().counters(deadline);
    try {
      for (const auto& [device, numbers] : answer.items()) {
        for (const auto& [name, value] : numbers.items()) counters.push_back({device, name, value.get<std::uint64_t>()});
      }
    } catch (const json::exception& error) {
      throw Error(std::string("the answer to vm.counters is not what Cloud Hypervisor's API describes: ") + error.what());
    }
    return counters;
  });
}

void CloudHypervisorDriver::inject_nmi(const VmHandle& vm, const Deadline& deadline) {
  const auto target = require_api(vm, "be interrupted");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running}, "be interrupted");
  with_context("cannot interrupt VM \"" + vm.name + "\"", [&] { target->api().inject_nmi(deadline); });
}

void CloudHypervisorDriver::dump_memory(const VmHandle& vm, const fs::path& file, const Deadline& deadline) {
  const auto target = require_api(vm, "be dumped");
  const std::lock_guard lock(target->order());
  const VmState before = target->state();
  require_state(target->handle(), before, {VmState::Running, VmState::Suspended}, "be dumped");
  with_context("cannot dump the memory of VM \"" + vm.name + "\"", [&] {
    const std::vector<std::string> features = target->api().ping(deadline).features;
    if (std::find(features.begin(), features.end(), kGuestDebug) == features.end()) {
      throw Unsupported(std::string("this Cloud Hypervisor was built without ") + kGuestDebug + ", by which it dumps memory");
    }
    const fs::path path = fs::absolute(file);
    if (fs::exists(path)) throw Error(path.string() + " is there already");
    try {
      target->api().dump_core(path, deadline);
      // It makes files for everybody to read.
      fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
    } catch (...) {
      std::error_code ignored;
      fs::remove(path, ignored);
      // It stops the guest first, and does not let it go on when it fails then.
      if (before == VmState::Running && target->state() == VmState::Suspended) target->resume();
      throw;
    }
  });
}

}  // namespace vmtest
