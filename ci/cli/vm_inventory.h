#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmtest/supervisor.h"
#include "vmtest/vm_handle.h"

namespace vmtest::cli {

/// A VM's folder, and what is behind it.
struct VmEntry {
  std::filesystem::path folder;
  /// Empty while the VM is being made, or when its file is broken.
  std::optional<VmHandle> handle;
  /// What its supervisor says; empty when none answers.
  std::optional<SupervisorStatus> status;
  /// Its supervisor is there, or may be, though it may not answer.
  bool alive = false;
  /// Its folder was made a moment ago.
  bool young = false;

  /// The VM's name, which is its folder's.
  [[nodiscard]] std::string name() const { return folder.filename().string(); }
  /// "running", "kept", "dead", ...
  [[nodiscard]] std::string_view state() const;
};

/// All VMs of this user that have a folder, by name.
[[nodiscard]] std::vector<VmEntry> list_vms();
/// The living VM of that name. Throws Error, with the names there are, when there is none.
[[nodiscard]] VmEntry find_vm(const std::string& name);
/// What is behind the runtime folders.
struct RuntimeFolders {
  /// What supervisors say that answer. Their VMs may have no handle yet.
  std::vector<SupervisorStatus> alive;
  /// Folders at whose socket somebody listens who gives no answer that we understand.
  std::vector<std::filesystem::path> silent;
  /// Folders with a socket at which nobody listens.
  std::vector<std::filesystem::path> dead;
};
/// Looks at all but those of living VMs in `besides`.
[[nodiscard]] RuntimeFolders look_at_runtime_folders(const std::vector<VmEntry>& besides = {});

}  // namespace vmtest::cli
