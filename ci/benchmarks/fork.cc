// One measured fork, or another figure of forks, for ci/benchmarks/fork.py. Prints one line of JSON.

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "bench_support.h"
#include "cli11.h"
#include "vmtest/error.h"
#include "vmtest/host/process.h"
#include "vmtest/vm.h"
#include "vmtest/vm_pool.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace vmtest::bench;  // NOLINT(google-build-using-namespace)

json measure_boot(const vmtest::VmSpec& spec, const fs::path& parts) {
  const auto start = Clock::now();
  vmtest::Vm vm = vmtest::Vm::boot(spec);
  const auto ready = Clock::now();
  vm.run("true");
  const double exec = seconds_since(ready);
  json result = {{"ssh", seconds_since(start)}, {"forked", vm.forked()}};
  const vmtest::BootPhases phases = vm.boot_phases();
  // From the call on, up to the moment that the guest runs on.
  result["restored"] = phases.template_found + phases.admission + phases.clone + phases.hypervisor;
  result["phases"] = to_json(phases);
  result["phases"]["exec"] = exec;
  const pid_t qemu = hypervisor_of(vm);
  result["cpu"] = cpu_seconds(qemu);
  result["pss_mib"] = memory_mib(qemu, "Pss");
  if (!parts.empty()) result["parts"] = export_parts(vm, spec, parts);
  return result;
}

json measure_pool(const vmtest::VmSpec& spec) {
  vmtest::VmPool pool(spec, 1);
  while (pool.ready() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const auto start = Clock::now();
  vmtest::Vm vm = pool.take();
  const double handover = seconds_since(start);
  vm.run("true");
  return {{"handover", handover}, {"command", seconds_since(start)}};
}

/// A login to a guest that has seen one before, by the client that everybody has.
json measure_warm_login(const vmtest::VmSpec& spec) {
  vmtest::Vm vm = vmtest::Vm::boot(spec);
  const fs::path& folder = vm.handle().work_dir;
  const std::vector<std::string> argv = {"ssh",
                                         "-q",
                                         "-F",
                                         "none",
                                         "-i",
                                         folder / "id_ed25519",
                                         "-p",
                                         std::to_string(vm.ssh_port()),
                                         "-o",
                                         "UserKnownHostsFile=" + (folder / "known_hosts").string(),
                                         "root@127.0.0.1",
                                         "true"};
  const auto login = [&] { (void)vmtest::run_tool(argv, vmtest::Deadline::after(std::chrono::minutes(1))); };
  login();
  const auto start = Clock::now();
  login();
  return {{"login", seconds_since(start)}};
}

json measure_vm_fork(const vmtest::VmSpec& spec) {
  vmtest::Vm parent = vmtest::Vm::boot(spec);
  parent.run("true");
  const auto start = Clock::now();
  vmtest::Vm child = parent.fork();
  child.run("true");
  const double ssh = seconds_since(start);
  for (const vmtest::TimelineEvent& event : parent.timeline().events()) {
    // "the guest stood still for 123 us"
    if (event.what == "checkpoint")
      return {{"pause", std::stod(event.detail.substr(event.detail.find("for ") + 4)) / 1e6}, {"ssh", ssh}};
  }
  throw vmtest::Error("the parent's timeline has no checkpoint");
}

/// As many idle forks at once as were asked for, or as fit.
json measure_many(const vmtest::VmSpec& spec, int count) {
  std::vector<vmtest::Vm> vms;
  std::string end;
  const auto start = Clock::now();
  try {
    while (static_cast<int>(vms.size()) < count) vms.push_back(vmtest::Vm::boot(spec));
  } catch (const std::exception& error) {
    end = error.what();
  }
  const double seconds = seconds_since(start);
  double pss = 0;
  for (vmtest::Vm& vm : vms) {
    vm.run("true");
    pss += memory_mib(hypervisor_of(vm), "Pss");
  }
  return {{"count", vms.size()}, {"seconds", seconds}, {"pss_mib", pss / static_cast<double>(vms.size())}, {"end", end}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Figures of forks; see ci/bench."};
  vmtest::VmSpec spec;
  std::string image = "tiny";
  std::string what = "boot";
  int count = 1;
  fs::path parts;
  app.add_option("what", what)->check(CLI::IsMember({"boot", "pool", "warm", "fork", "many"}));
  app.add_option("--image", image);
  app.add_option("--memory", spec.memory_mib);
  app.add_option("--cpus", spec.vcpus);
  app.add_option("--count", count);
  app.add_option("--parts", parts, "Folder that receives what bare QEMU needs to boot the same");
  CLI11_PARSE(app, argc, argv);
  spec.image = image;
  spec.user = "root";
  spec.boot_timeout = std::chrono::minutes(2);
  try {
    const json result = what == "boot"   ? measure_boot(spec, parts)
                        : what == "pool" ? measure_pool(spec)
                        : what == "warm" ? measure_warm_login(spec)
                        : what == "fork" ? measure_vm_fork(spec)
                                         : measure_many(spec, count);
    fmt::print("{}\n", result.dump());
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
