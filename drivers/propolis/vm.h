#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "host_plan.h"
#include "run_plan.h"
#include "settings.h"
#include "supervised/supervised_vm.h"

namespace vmtest::propolis {

/// Files in a VM's work folder, and sockets in its runtime folder.
inline constexpr const char* kConsoleLog = "console.log";
inline constexpr const char* kConsoleSocket = "console.sock";

/// The VNIC of a VM: nobody else's, even when a journal is found late. 15 characters, which is what Linux has, and a digit at the
/// end, which is what dladm wants.
[[nodiscard]] std::string link_name(const VmHandle& vm);

/// What the keeper is told to do for a VM: a pure function but for the identity of this run. Empty VNICs: it has no card.
[[nodiscard]] RunPlan run_plan(const VmHandle& vm, const Settings& settings, const std::vector<LinkPlan>& links,
                               const std::string& run);

/// Whether a journal is that of a run of the VM.
[[nodiscard]] bool is_journal_of(const VmHandle& vm, const std::filesystem::path& journal);

/// One VM: the connections to its supervisor and its server.
class PropolisVm final : public SupervisedVm {
 public:
  PropolisVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner);

  void launch(const MachineConfig& machine) override;
  void suspend() override;
  void resume() override;
  bool press_power_button(VmState, const Deadline&) override { return false; }

 private:
  VmState running_state(const Deadline& deadline) override;
  VmExit judge(const SupervisedExit& exit, bool asked) override;

  [[nodiscard]] std::vector<LinkPlan> links(const MachineConfig& machine, const Settings& settings) const;
  /// Writes what the server is asked for; makes the boot disk of a kernel.
  void write_body(MachineConfig machine, const Settings& settings, const RunPlan& plan, const std::vector<LinkPlan>& links) const;
  [[nodiscard]] std::filesystem::path running_file() const { return handle().runtime_dir / "server.json"; }
};

}  // namespace vmtest::propolis
