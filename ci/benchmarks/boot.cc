// One measured life of a VM, for ci/benchmarks/boot.py: boot, first command answered, end. Prints one line of JSON.

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "cli11.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/supervisor.h"
#include "vmtest/vm.h"

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// The fields of /proc/PID/stat from the third on (proc(5)); empty when there is no such process.
std::vector<std::string> process_fields(pid_t pid) {
  std::string stat;
  try {
    stat = vmtest::read_file("/proc/" + std::to_string(pid) + "/stat");
  } catch (const std::exception&) {
    return {};
  }
  // The name before them may hold anything, parentheses too.
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  return {std::istream_iterator<std::string>(fields), {}};
}

/// CPU seconds that a process has used: fields 14 and 15.
double cpu_seconds(pid_t pid) {
  const auto fields = process_fields(pid);
  return (std::stod(fields.at(11)) + std::stod(fields.at(12))) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

/// One that has ended and waits for its parent to ask how, as orphans do until init has time, holds nothing any more.
bool is_running(pid_t pid) {
  const auto fields = process_fields(pid);
  return !fields.empty() && fields.front() != "Z" && fields.front() != "X";
}

/// What bare QEMU needs to boot the same: seed and key are the VM's own, the image's files stay where they are.
json export_parts(const vmtest::Vm& vm, const vmtest::VmSpec& spec, const fs::path& folder) {
  const vmtest::Image image = spec.image.resolve(spec.architecture);
  for (const char* name : {"seed.iso", "id_ed25519"}) {
    fs::copy_file(vm.handle().work_dir / name, folder / name, fs::copy_options::overwrite_existing);
  }
  return {{"kernel", image.kernel.string()},
          {"initrd", image.initramfs.string()},
          {"append", image.command_line},
          {"disk", image.disk.string()},
          {"disk_format", vmtest::to_string(image.disk_format)},
          {"mac", vm.handle().mac_address},
          {"accel", vmtest::to_string(vm.accelerator())}};
}

json measure(const vmtest::VmSpec& spec, const fs::path& parts) {
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
    result["phases"] = {
        {"admission", phases.admission}, {"clone", phases.clone},   {"seed", phases.seed}, {"hypervisor", phases.hypervisor},
        {"kernel", phases.kernel},       {"marker", phases.marker}, {"ssh", phases.ssh}};
    handle = vm.handle();
    hypervisor = vmtest::SupervisorConnection::connect(handle.supervisor_socket())->status().processes.at("qemu");
    result["cpu"] = cpu_seconds(hypervisor);
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
  CLI11_PARSE(app, argc, argv);
  spec.image = image;
  spec.user = "root";
  spec.seed_profile = profile == "fast" ? vmtest::SeedProfile::Fast : vmtest::SeedProfile::Stock;
  // The slowest boot there is, a stock cloud-init under emulation on a host that is busy with other things.
  spec.boot_timeout = std::chrono::minutes(2);
  try {
    fmt::print("{}\n", measure(spec, parts).dump());
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
