#include "vm_inventory.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;

/// A supervisor makes its folder some milliseconds before it listens; younger folders are nobody's leftovers yet.
constexpr std::chrono::seconds kYoung{10};
/// Shorter than for who needs the answer: a supervisor that gives none in this time is shown as busy and left alone.
constexpr std::chrono::seconds kAnswerTime{5};

bool is_young(const fs::path& path) {
  std::error_code error;
  const auto changed = fs::last_write_time(path, error);
  return !error && fs::file_time_type::clock::now() - changed < kYoung;
}

/// Whether a process has that socket open, however busy it is.
bool somebody_listens(const fs::path& socket) {
  try {
    (void)connect_unix(socket);
    return true;
  } catch (const std::system_error& error) {
    return error.code() != std::errc::connection_refused && error.code() != std::errc::no_such_file_or_directory;
  } catch (const Error&) {  // a path too long for a socket's
    return false;
  }
}

struct Answer {
  std::optional<SupervisorStatus> status = {};
  bool somebody_listens = false;
};

Answer ask(const fs::path& socket) {
  try {
    return {SupervisorConnection::connect(socket, kAnswerTime)->status(), true};
  } catch (const std::exception&) {  // nobody listens, or one who is stopped, or of another version, or no supervisor at all
    return {.somebody_listens = somebody_listens(socket)};
  }
}

VmEntry look_at(const fs::path& folder) {
  VmEntry entry;
  entry.folder = folder;
  entry.young = is_young(folder);
  try {
    entry.handle = parse_vm_handle(read_file(folder / "handle.json"));
  } catch (const std::exception&) {  // being made, cut short by a full disk, or of another version
    entry.alive = entry.young;
    return entry;
  }
  Answer answer = ask(entry.handle->supervisor_socket());
  entry.status = std::move(answer.status);
  // A pid alone says nothing, it may be another process by now; with its start time it does.
  const auto start_time = process_start_time(entry.handle->supervisor_pid);
  entry.alive = answer.somebody_listens || (start_time && *start_time == entry.handle->supervisor_start_time);
  return entry;
}

bool is_judged_without_handle(const VmEntry& entry) { return !entry.handle && !entry.young; }

/// Whose handle says nothing lives if a supervisor says so; or if one is silent, since it may be that VM's.
void judge_without_handles(std::vector<VmEntry>& entries) {
  if (std::none_of(entries.begin(), entries.end(), is_judged_without_handle)) return;
  const RuntimeFolders runtime = look_at_runtime_folders(entries);
  for (VmEntry& entry : entries) {
    if (!is_judged_without_handle(entry)) continue;
    const auto said = std::find_if(runtime.alive.begin(), runtime.alive.end(),
                                   [&](const SupervisorStatus& status) { return status.name == entry.name(); });
    if (said != runtime.alive.end()) entry.status = *said;
    entry.alive = entry.status.has_value() || !runtime.silent.empty();
  }
}

bool is_of(const fs::path& runtime_folder, const VmEntry& entry) {
  std::error_code none;
  return entry.alive && entry.handle && fs::equivalent(runtime_folder, entry.handle->runtime_dir, none);
}

}  // namespace

std::string_view VmEntry::state() const {
  if (!alive) return "dead";
  if (!status) return handle || !young ? "busy" : "starting";
  if (!handle && status->processes.empty()) return "starting";
  if (status->processes.empty()) return status->kept ? "kept, stopped" : "stopped";
  return status->kept ? "kept" : "running";
}

std::vector<VmEntry> list_vms() {
  std::vector<VmEntry> entries;
  std::error_code none;
  for (const auto& folder : fs::directory_iterator(data_dir() / "vms", none)) {
    if (folder.is_directory(none)) entries.push_back(look_at(folder.path()));
  }
  judge_without_handles(entries);
  std::sort(entries.begin(), entries.end(), [](const VmEntry& a, const VmEntry& b) { return a.folder < b.folder; });
  return entries;
}

VmEntry find_vm(const std::string& name) {
  std::string names;
  for (VmEntry& entry : list_vms()) {
    if (entry.alive && !entry.handle && !entry.young && entry.name() == name)  // says why it is none
      (void)with_context("VM \"" + name + "\" cannot be reached",
                         [&] { return parse_vm_handle(read_file(entry.folder / "handle.json")); });
    if (!entry.alive || !entry.handle) continue;
    if (entry.name() == name) return std::move(entry);
    names += (names.empty() ? "" : ", ") + entry.name();
  }
  throw Error("no running VM is named \"" + name + "\"" + (names.empty() ? "; there is none at all" : "; there are " + names));
}

RuntimeFolders look_at_runtime_folders(const std::vector<VmEntry>& besides) {
  RuntimeFolders result;
  std::error_code none;
  for (const auto& folder : fs::directory_iterator(runtime_dir(), none)) {
    if (!folder.is_directory(none) || folder.is_symlink(none)) continue;
    const fs::path socket = folder.path() / "supervisor.sock";
    if (!fs::is_socket(socket, none)) continue;
    if (std::any_of(besides.begin(), besides.end(), [&](const VmEntry& entry) { return is_of(folder.path(), entry); })) continue;
    Answer answer = ask(socket);
    if (answer.status) result.alive.push_back(std::move(*answer.status));
    else if (answer.somebody_listens) result.silent.push_back(folder.path());
    else if (!is_young(folder.path())) result.dead.push_back(folder.path());
  }
  return result;
}

}  // namespace vmtest::cli
