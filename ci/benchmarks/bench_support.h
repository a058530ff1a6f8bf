#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "vmtest/host/file_descriptor.h"
#include "vmtest/supervisor.h"
#include "vmtest/vm.h"

// What the benchmark programs have in common.
namespace vmtest::bench {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// The fields of /proc/PID/stat from the third on (proc(5)); empty when there is no such process.
inline std::vector<std::string> process_fields(pid_t pid) {
  std::string stat;
  try {
    stat = read_file("/proc/" + std::to_string(pid) + "/stat");
  } catch (const std::exception&) {
    return {};
  }
  // The name before them may hold anything, parentheses too.
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  return {std::istream_iterator<std::string>(fields), {}};
}

/// CPU seconds that a process has used: fields 14 and 15.
inline double cpu_seconds(pid_t pid) {
  const auto fields = process_fields(pid);
  return (std::stod(fields.at(11)) + std::stod(fields.at(12))) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

/// One that has ended and waits for its parent to ask how, as orphans do until init has time, holds nothing any more.
inline bool is_running(pid_t pid) {
  const auto fields = process_fields(pid);
  return !fields.empty() && fields.front() != "Z" && fields.front() != "X";
}

/// The hypervisor of a VM.
inline pid_t hypervisor_of(const Vm& vm) {
  return SupervisorConnection::connect(vm.handle().supervisor_socket())->status().processes.at("qemu");
}

/// A field of /proc/PID/smaps_rollup in MiB: "Pss", "Private_Dirty".
inline double memory_mib(pid_t pid, const std::string& field) {
  std::istringstream lines(read_file("/proc/" + std::to_string(pid) + "/smaps_rollup"));
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(field + ":", 0) == 0) return std::stod(line.substr(field.size() + 1)) / 1024;
  }
  return 0;
}

/// What bare QEMU needs to boot the same, with what a Vm adds under emulation: seed and key are the VM's own, the image's files
/// stay where they are.
inline nlohmann::json export_parts(const Vm& vm, const VmSpec& spec, const std::filesystem::path& folder) {
  const Image image = spec.image.resolve(spec.architecture);
  for (const char* name : {"seed.iso", "id_ed25519"}) {
    std::filesystem::copy_file(vm.handle().work_dir / name, folder / name, std::filesystem::copy_options::overwrite_existing);
  }
  return {{"kernel", image.kernel.string()},
          {"initrd", image.initramfs.string()},
          {"append", image.command_line + " no_timer_check"},
          {"disk", image.disk.string()},
          {"disk_format", to_string(image.disk_format)},
          {"mac", vm.handle().mac_address},
          {"accel", to_string(vm.accelerator())}};
}

inline nlohmann::json to_json(const BootPhases& phases) {
  return {{"template", phases.template_found},
          {"admission", phases.admission},
          {"clone", phases.clone},
          {"seed", phases.seed},
          {"hypervisor", phases.hypervisor},
          {"hypervisor.process", phases.process},
          {"hypervisor.monitor", phases.monitor},
          {"hypervisor.restore", phases.restore},
          {"refresh", phases.refresh},
          {"kernel", phases.kernel},
          {"marker", phases.marker},
          {"ssh", phases.ssh},
          {"ssh.tcp", phases.tcp},
          {"ssh.banner", phases.banner},
          {"ssh.key_exchange", phases.key_exchange},
          {"ssh.authentication", phases.authentication}};
}

}  // namespace vmtest::bench
