#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli11.h"
#include "exit_codes.h"
#include "subcommand.h"
#include "vm_inventory.h"
#include "vmtest/image_store.h"
#include "vmtest/propolis_driver.h"
#include "vmtest/template_store.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;

/// Folders that no living VM uses.
std::vector<fs::path> find_leftovers() {
  const RuntimeFolders runtime = look_at_runtime_folders();
  std::vector<fs::path> leftovers = runtime.dead;
  for (const VmEntry& entry : list_vms()) {
    const bool named =
        std::any_of(runtime.alive.begin(), runtime.alive.end(), [&](const auto& vm) { return vm.name == entry.name(); });
    if (entry.alive || named) continue;
    leftovers.push_back(entry.folder);
    if (entry.handle && fs::exists(entry.handle->runtime_dir)) leftovers.push_back(entry.handle->runtime_dir);
  }
  std::sort(leftovers.begin(), leftovers.end());
  leftovers.erase(std::unique(leftovers.begin(), leftovers.end()), leftovers.end());
  return leftovers;
}

/// What Propolis' runs did to this host or to servers elsewhere.
int take_back_host_changes(bool dry_run) {
  int code = kSuccess;
  for (const fs::path& journal : PropolisDriver::leftovers()) {
    try {
      if (!dry_run) PropolisDriver::take_back(journal);
      fmt::print("{} {} says\n", dry_run ? "would take back what" : "took back what", journal.string());
    } catch (const std::exception& error) {
      fmt::print(stderr, "vmtest gc: {}\n", error.what());
      code = kInfrastructure;
    }
  }
  return code;
}

int collect(bool dry_run) {
  int code = take_back_host_changes(dry_run);
  for (const fs::path& folder : find_leftovers()) {
    std::error_code error;
    if (!dry_run) fs::remove_all(folder, error);
    if (error) {
      fmt::print(stderr, "vmtest gc: cannot remove {}: {}\n", folder.string(), error.message());
      code = kInfrastructure;
    } else {
      fmt::print("{} {}\n", dry_run ? "would remove" : "removed", folder.string());
    }
  }
  if (!dry_run) {
    const std::size_t builds = ImageStore().remove_leftovers();
    if (builds > 0) fmt::print("removed {} unfinished image builds\n", builds);
    const auto templates = TemplateStore().collect(TemplateStore::limits_from_environment());
    for (const std::string& key : templates.removed) fmt::print("removed template {}\n", key);
  }
  return code;
}

}  // namespace

void add_gc(CLI::App& app, Action& action) {
  const auto dry_run = std::make_shared<bool>(false);
  app.add_flag("-n,--dry-run", *dry_run, "Only tell what would be removed");
  app.footer(
      "Living VMs are told from dead ones by asking their supervisor and by its process' start time, never by pid alone.\n"
      "Nothing needs this but a power cut or a killed supervisor: VMs clean up after themselves.");
  app.final_callback([dry_run, &action] { action = [dry_run] { return collect(*dry_run); }; });
}

}  // namespace vmtest::cli
