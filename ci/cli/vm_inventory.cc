#include "vm_inventory.h"

#include <algorithm>
#include <chrono>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;

/// A supervisor makes its folder some milliseconds before it listens; younger folders are nobody's leftovers yet.
constexpr std::chrono::seconds kYoung{10};

bool is_young(const fs::path& path) {
  std::error_code error;
  const auto changed = fs::last_write_time(path, error);
  return !error && fs::file_time_type::clock::now() - changed < kYoung;
}

std::optional<SupervisorStatus> ask(const fs::path& socket) {
  try {
    return SupervisorConnection::connect(socket)->status();
  } catch (const std::exception&) {  // nobody listens, or something that is no supervisor of ours
    return std::nullopt;
  }
}

VmEntry look_at(const fs::path& folder) {
  VmEntry entry;
  entry.folder = folder;
  try {
    entry.handle = parse_vm_handle(read_file(folder / "handle.json"));
  } catch (const std::exception&) {  // being made, or cut short by a full disk: judged by age
    entry.alive = is_young(folder);
    return entry;
  }
  entry.status = ask(entry.handle->supervisor_socket());
  // A pid alone says nothing, it may be another process by now; with its start time it does.
  const auto start_time = process_start_time(entry.handle->supervisor_pid);
  entry.alive = entry.status.has_value() || (start_time && *start_time == entry.handle->supervisor_start_time);
  return entry;
}

}  // namespace

std::string_view VmEntry::state() const {
  if (!alive) return "dead";
  if (!handle) return "starting";
  if (!status) return "busy";
  if (status->processes.empty()) return status->kept ? "kept, stopped" : "stopped";
  return status->kept ? "kept" : "running";
}

std::vector<VmEntry> list_vms() {
  std::vector<VmEntry> entries;
  std::error_code none;
  for (const auto& folder : fs::directory_iterator(data_dir() / "vms", none)) {
    if (folder.is_directory(none)) entries.push_back(look_at(folder.path()));
  }
  std::sort(entries.begin(), entries.end(), [](const VmEntry& a, const VmEntry& b) { return a.folder < b.folder; });
  return entries;
}

VmEntry find_vm(const std::string& name) {
  std::string names;
  for (VmEntry& entry : list_vms()) {
    if (!entry.alive || !entry.handle) continue;
    if (entry.name() == name) return std::move(entry);
    names += (names.empty() ? "" : ", ") + entry.name();
  }
  throw Error("no running VM is named \"" + name + "\"" + (names.empty() ? "; there is none at all" : "; there are " + names));
}

RuntimeFolders look_at_runtime_folders() {
  RuntimeFolders result;
  std::error_code none;
  for (const auto& folder : fs::directory_iterator(runtime_dir(), none)) {
    if (!folder.is_directory(none) || folder.is_symlink(none)) continue;
    const fs::path socket = folder.path() / "supervisor.sock";
    if (auto status = ask(socket)) {
      result.alive.push_back(std::move(*status));
    } else if (fs::is_socket(socket, none) && !is_young(folder.path())) {
      result.dead.push_back(folder.path());
    }
  }
  return result;
}

}  // namespace vmtest::cli
