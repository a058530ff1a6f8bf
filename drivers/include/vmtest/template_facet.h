#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/machine_config.h"
#include "vmtest/vm_handle.h"

namespace vmtest {

/// The files that a frozen state consists of: the one it is named by, and those beside it whose names are that with a dot and
/// more. They are moved and removed together. Empty when there are none.
[[nodiscard]] std::vector<std::filesystem::path> files_of_state(const std::filesystem::path& state_file);

/// What a driver offers that can freeze a VM and have others continue from there: Driver::templates(). A frozen VM is its
/// memory file, its device state and its disks as they were; MachineConfig::restore_from continues from it. The same rules on
/// threads and states as for Driver.
class TemplateFacet {
 public:
  virtual ~TemplateFacet() = default;
  TemplateFacet() = default;
  TemplateFacet(const TemplateFacet&) = delete;
  TemplateFacet& operator=(const TemplateFacet&) = delete;

  /// Whether forks share the pages of a memory file that they do not write. Else there is no such file: the memory is a part of
  /// the state.
  [[nodiscard]] virtual bool shares_memory() const = 0;
  /// Why a machine like this cannot be frozen and forked, in one line; empty when it can.
  [[nodiscard]] virtual std::optional<std::string> obstacle(const MachineConfig& machine) const = 0;
  /// Everything but the guest's own content that a frozen state depends on: the hypervisor and its firmware as files, and the
  /// machine with this VM's own paths, ports and names left out. Two machines whose texts differ must not share a template.
  [[nodiscard]] virtual std::string fingerprint(const MachineConfig& machine) const = 0;

  /// Running or Suspended -> Stopped. The guest stands still, its device state is in `state_file` (made, 0600; see
  /// files_of_state), its memory in the machine's memory file or in the state, and the hypervisor has ended. Throws Error; the VM
  /// is of no further use then.
  virtual void save(const VmHandle& vm, const std::filesystem::path& state_file, const Deadline& deadline) = 0;
  /// Running or Suspended -> the same. Writes memory and device state of this very moment to `state_file` (made, 0600), and has
  /// the disks named by their ids continue in files that exist already: new overlays of what the disks are until then, which
  /// nobody writes to any more. Returns how long the guest stood still for it.
  virtual std::chrono::microseconds checkpoint(const VmHandle& vm, const std::filesystem::path& state_file,
                                               const std::map<std::string, std::filesystem::path>& overlays,
                                               const Deadline& deadline) = 0;
  /// Connects to the guest agent's byte stream. One connection at a time. Throws Error when the machine has none.
  [[nodiscard]] virtual FileDescriptor connect_agent(const VmHandle& vm, const Deadline& deadline) = 0;
};

}  // namespace vmtest
