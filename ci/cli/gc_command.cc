#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli11.h"
#include "exit_codes.h"
#include "run_folder.h"
#include "subcommand.h"
#include "vm_inventory.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/image_store.h"
#include "vmtest/propolis_driver.h"
#include "vmtest/template_store.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Folders that no living VM uses.
std::vector<fs::path> find_leftovers() {
  const std::vector<VmEntry> vms = list_vms();
  const RuntimeFolders runtime = look_at_runtime_folders(vms);
  std::vector<fs::path> leftovers = runtime.dead;
  for (const VmEntry& entry : vms) {
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

struct GcOptions {
  bool dry_run = false;
  bool as_json = false;
};

/// What was removed, or would be, and what could not be.
class Collector {
 public:
  explicit Collector(const GcOptions& options) : options_(options) {}

  /// What Propolis' runs did to this host or to servers elsewhere.
  void take_back_host_changes() {
    for (const fs::path& journal : PropolisDriver::leftovers()) {
      try {
        if (!options_.dry_run) PropolisDriver::take_back(journal);
        tell("taken_back", journal.string(), options_.dry_run ? "would take back what {} says" : "took back what {} says");
      } catch (const std::exception& error) {
        fail(journal.string(), error.what());
      }
    }
  }

  void remove_folders() {
    for (const fs::path& folder : find_leftovers()) remove(folder);
    for (const DeadRunFolder& dead : find_dead_run_folders()) remove(dead.path);
  }

  void remove_unfinished() {
    const std::size_t builds = options_.dry_run ? ImageStore().count_leftovers() : ImageStore().remove_leftovers();
    report_["unfinished_image_builds"] = builds;
    if (builds > 0 && !options_.as_json)
      fmt::print("{} {} folders of unfinished image builds\n", options_.dry_run ? "would remove" : "removed", builds);
    const auto how = options_.dry_run ? TemplateStore::Collection::Pretended : TemplateStore::Collection::Real;
    for (const std::string& key : TemplateStore().collect(TemplateStore::limits_from_environment(), how).removed)
      tell("templates", key, options_.dry_run ? "would remove template {}" : "removed template {}");
  }

  int finish() const {
    if (options_.as_json) write_all(STDOUT_FILENO, report_.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
    return report_["failed"].empty() ? kSuccess : kInfrastructure;
  }

 private:
  void remove(const fs::path& folder) {
    std::error_code error;
    if (!options_.dry_run) fs::remove_all(folder, error);
    if (error) fail(folder.string(), "cannot remove " + folder.string() + ": " + error.message());
    else tell("removed", folder.string(), options_.dry_run ? "would remove {}" : "removed {}");
  }
  void tell(const char* list, const std::string& what, const char* words) {
    report_[list].push_back(what);
    if (!options_.as_json) fmt::print("{}\n", fmt::format(fmt::runtime(words), what));
  }
  void fail(const std::string& what, const std::string& why) {
    report_["failed"].push_back({{"path", what}, {"error", why}});
    fmt::print(stderr, "vmtest gc: {}\n", why);
  }

  GcOptions options_;
  json report_ = {{"dry_run", options_.dry_run},  {"removed", json::array()},   {"taken_back", json::array()},
                  {"unfinished_image_builds", 0}, {"templates", json::array()}, {"failed", json::array()}};
};

int collect(const GcOptions& options) {
  Collector collector(options);
  collector.take_back_host_changes();
  collector.remove_folders();
  collector.remove_unfinished();
  return collector.finish();
}

}  // namespace

void add_gc(CLI::App& app, Action& action) {
  const auto options = std::make_shared<GcOptions>();
  app.add_flag("-n,--dry-run", options->dry_run, "Only tell what would be removed");
  app.add_flag("--json", options->as_json, "Print it as JSON");
  app.footer(
      "Living VMs are told from dead ones by asking their supervisor and by its process' start time, never by pid alone; where\n"
      "a supervisor gives no answer, nothing that may be its VM's is touched. The temporary folders of living runs are locked.\n"
      "Nothing needs this but a power cut, a killed supervisor or a killed vmtest run: VMs clean up after themselves, and the\n"
      "next run takes such a folder away, too. Templates that are too old or too much go as well, as after each new one (see\n"
      "vmtest template gc).\n"
      "Exit codes: 0 nothing is left, 2 a wrong command line, 3 something could not be removed (the rest is).");
  app.final_callback([options, &action] { action = [options] { return collect(*options); }; });
}

}  // namespace vmtest::cli
