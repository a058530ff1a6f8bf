#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli11.h"
#include "exit_codes.h"
#include "subcommand.h"
#include "vm_inventory.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/machine_config.h"

namespace vmtest::cli {
namespace {

using nlohmann::json;

json to_json(const VmEntry& entry) {
  json vm = {{"name", entry.name()}, {"state", entry.state()}, {"folder", entry.folder.string()}};
  if (entry.handle) {
    vm["driver"] = to_string(entry.handle->driver);
    vm["ssh_port"] = entry.handle->ssh_port;
    vm["supervisor_pid"] = entry.handle->supervisor_pid;
    std::error_code ignored;
    if (const auto vnc = entry.handle->runtime_dir / kVncSocket; std::filesystem::exists(vnc, ignored)) vm["vnc"] = vnc.string();
  }
  if (entry.status) {
    vm["owned"] = entry.status->owned;
    vm["kept"] = entry.status->kept;
    vm["processes"] = entry.status->processes;
  }
  return vm;
}

int list(bool as_json) {
  const auto entries = list_vms();
  if (as_json) {
    json all = json::array();
    for (const VmEntry& entry : entries) all.push_back(to_json(entry));
    write_all(STDOUT_FILENO, all.dump(2) + "\n");
    return kSuccess;
  }
  fmt::print("{:<48} {:<14} {:<17} {:>8} {:>10}\n", "NAME", "STATE", "DRIVER", "SSH PORT", "SUPERVISOR");
  for (const VmEntry& entry : entries) {
    const VmHandle handle = entry.handle.value_or(VmHandle{});
    fmt::print("{:<48} {:<14} {:<17} {:>8} {:>10}\n", entry.name(), entry.state(), entry.handle ? to_string(handle.driver) : "?",
               handle.ssh_port, handle.supervisor_pid);
  }
  return kSuccess;
}

}  // namespace

void add_ps(CLI::App& app, Action& action) {
  const auto as_json = std::make_shared<bool>(false);
  app.add_flag("--json", *as_json, "Print them as JSON");
  app.footer(
      "States: running, stopped (no hypervisor), kept (lives without an owner), \"kept, stopped\" (both), starting, busy (its\n"
      "supervisor gives no answer that this vmtest understands), dead (left by a crash; `vmtest gc` removes it).\n"
      "Exit codes: 0 they are listed (there may be none), 2 a wrong command line, 3 nothing says where VMs are\n"
      "kept (see VMTEST_HOME).");
  app.final_callback([as_json, &action] { action = [as_json] { return list(*as_json); }; });
}

}  // namespace vmtest::cli
