// One measured life of a VM, for ci/benchmarks/boot.py: boot, first command answered, end. Prints one line of JSON.

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "bench_support.h"
#include "cli11.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/ssh_session.h"
#include "vmtest/supervisor.h"
#include "vmtest/vm.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace vmtest::bench;  // NOLINT(google-build-using-namespace)

/// What each of cloud-init's four stages took in the guest, 0 for one that did not run, and a further login with a command.
json stages(vmtest::Vm& vm) {
  json result;
  vm.run("cloud-init status --wait > /dev/null");
  for (const auto& [name, unit] :
       {std::pair{"local", "cloud-init-local"}, {"init", "cloud-init"}, {"config", "cloud-config"}, {"final", "cloud-final"}}) {
    const auto microseconds = [&vm, unit = unit](const std::string& moment) {
      return std::stod(vm.run({"systemctl", "show", "--value", "-p", moment + "TimestampMonotonic", unit}).out);
    };
    const double active = microseconds("ActiveEnter");
    result[std::string("stage_") + name] = active == 0 ? 0 : (active - microseconds("InactiveExit")) / 1e6;
  }
  const auto start = Clock::now();
  vmtest::SshSession session(vm.ssh().options());
  session.connect();
  if (!session.exec({"true"}).ok()) throw vmtest::Error("a second login does not work");
  result["login"] = seconds_since(start);
  return result;
}

json measure(const vmtest::VmSpec& spec, const fs::path& parts, bool with_stages) {
  json result;
  const auto start = Clock::now();
  vmtest::VmHandle handle;
  pid_t hypervisor = -1;
  Clock::time_point end;
  {
    vmtest::Vm vm = vmtest::Vm::boot(spec);
    const double ready = seconds_since(start);
    vm.run("true");
    result["ssh"] = seconds_since(start);
    const vmtest::BootPhases phases = vm.boot_phases();
    result["marker"] = ready - phases.ssh;
    result["phases"] = to_json(phases);
    handle = vm.handle();
    hypervisor = hypervisor_of(vm);
    result["cpu"] = cpu_seconds(hypervisor);
    if (with_stages) result.update(stages(vm));
    if (!parts.empty()) result["parts"] = export_parts(vm, spec, parts);
    end = Clock::now();
  }
  // The scope ends when all is gone already; this sees to it.
  while (is_running(hypervisor) || is_running(handle.supervisor_pid) || fs::exists(handle.work_dir) ||
         fs::exists(handle.runtime_dir)) {
    if (seconds_since(end) > 30) throw vmtest::Error("VM \"" + handle.name + "\" is not gone 30 s after its end");
  }
  result["teardown"] = seconds_since(end);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"One measured life of a VM; see ci/bench."};
  vmtest::VmSpec spec;
  std::string image = "tiny";
  std::string profile = "fast";
  fs::path parts;
  app.add_option("--image", image);
  app.add_option("--memory", spec.memory_mib);
  app.add_option("--cpus", spec.vcpus);
  app.add_option("--profile", profile)->check(CLI::IsMember({"fast", "stock"}));
  app.add_option("--parts", parts, "Folder that receives what bare QEMU needs to boot the same");
  bool with_stages = false;
  app.add_flag("--stages", with_stages, "Also what cloud-init's stages and a second login took");
  CLI11_PARSE(app, argc, argv);
  spec.image = image;
  // What is measured here is a boot.
  spec.templates = vmtest::Template::Never;
  spec.user = "root";
  spec.seed_profile = profile == "fast" ? vmtest::SeedProfile::Fast : vmtest::SeedProfile::Stock;
  // The slowest boot there is, a stock cloud-init under emulation on a host that is busy with other things.
  spec.boot_timeout = std::chrono::minutes(2);
  try {
    fmt::print("{}\n", measure(spec, parts, with_stages).dump());
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
