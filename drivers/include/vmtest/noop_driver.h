#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/driver.h"
#include "vmtest/guest.h"
#include "vmtest/guest_facet.h"

namespace vmtest {

/// What the VMs of a NoopDriver do. A value; each VM has a copy of its own from prepare() on.
struct NoopScript {
  /// What a guest prints when it starts.
  std::string console = "\nVMRS_READY 192.0.2.1\n";
  /// What guest_ip() answers; empty: "not known yet".
  std::string ip = "192.0.2.1";
  /// How long a call takes: "prepare", "start", "stop", "suspend", "resume", "destroy", "resize_vcpus", "resize_memory",
  /// "resize_disk", "inject_nmi", "dump_memory". stop() never takes longer than the time it was given.
  std::map<std::string, std::chrono::milliseconds> delays = {};
  /// The error that a call of these throws instead of doing anything.
  std::map<std::string, std::string> failures = {};
  /// A VM ends by itself so long after it was started: orderly, and it is Stopped, or not, and it is Failed.
  struct Ending {
    std::chrono::milliseconds after{0};
    VmExit exit;
  };
  std::optional<Ending> ending = {};
  /// What is counted.
  std::vector<Counter> counters = {};
  /// What commands in the guest answer; each succeeds and says nothing by default. Called by the thread that runs the command.
  /// The guest itself answers `reboot`, which prints the console's text anew, and what reads its boot_id.
  std::function<CommandResult(const GuestCommand& command)> on_command = {};
};

/// A call that a NoopDriver was asked for.
struct NoopCall {
  /// "prepare", "start" ...
  std::string name;
  /// Name of the VM.
  std::string vm;
  bool operator==(const NoopCall&) const = default;
};

/// A driver without a hypervisor, for tests of what uses VMs: its VMs are kept in memory, move through their states as real ones
/// do, print what a script says, grow and shrink, and take commands that a function answers. It remembers what it was asked.
/// Nothing is emulated: no disk is read, no port is open.
///
/// Objects that share a world know the same VMs; no other process does. A VM goes with the object that prepared it, as a real one
/// does with its owner.
class NoopDriver final : public Driver, private GuestFacet, private ResizeFacet, private InspectionFacet {
 public:
  /// VMs in memory, and what was asked.
  class World;

  explicit NoopDriver(NoopScript script = {});
  NoopDriver(NoopScript script, std::shared_ptr<World> world);
  ~NoopDriver() override;

  [[nodiscard]] DriverKind kind() const override { return DriverKind::Noop; }
  [[nodiscard]] std::optional<std::string> unavailable_reason() const override { return std::nullopt; }
  /// No formats: it takes no disks.
  [[nodiscard]] DiskNeeds disk_needs() const override { return {}; }
  [[nodiscard]] Support support(Capability capability) const override;

  [[nodiscard]] VmHandle prepare(const PrepareRequest& request) override;
  VmHandle start(const VmHandle& vm, const MachineConfig& machine) override;
  VmHandle stop(const VmHandle& vm, std::chrono::milliseconds timeout) override;
  VmHandle suspend(const VmHandle& vm) override;
  VmHandle resume(const VmHandle& vm) override;
  void destroy(const VmHandle& vm) override;
  [[nodiscard]] VmState state(const VmHandle& vm) override;
  [[nodiscard]] std::string guest_ip(const VmHandle& vm) override;
  [[nodiscard]] ConsoleEndpoint console_endpoint(const VmHandle& vm) const override;
  [[nodiscard]] std::optional<VmExit> wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) override;
  [[nodiscard]] GuestFacet* guests() override { return this; }
  [[nodiscard]] ResizeFacet* resizing() override { return this; }
  [[nodiscard]] InspectionFacet* inspection() override { return this; }

  /// Everything asked so far, in order, by name; state, guest_ip and the like ask nothing of a VM and are not in it.
  [[nodiscard]] std::vector<NoopCall> calls() const;
  /// The machine that a VM was last started with, of the size it has now. Throws Error when it never was.
  [[nodiscard]] MachineConfig machine_of(const std::string& vm) const;
  /// Has a guest print something.
  void print(const std::string& vm, const std::string& text);
  /// Ends a VM that runs: as its script might have.
  void end(const std::string& vm, const VmExit& exit);
  [[nodiscard]] std::shared_ptr<World> world() const { return world_; }

 private:
  class ScriptedGuest;

  [[nodiscard]] std::unique_ptr<Guest> connect_guest(const VmHandle& vm) override;
  // Sizes are numbers, within the machine's room.
  void resize_vcpus(const VmHandle& vm, unsigned vcpus, const Deadline& deadline) override;
  void resize_memory(const VmHandle& vm, unsigned memory_mib, const Deadline& deadline) override;
  void resize_disk(const VmHandle& vm, const std::string& disk, std::uint64_t size_mib, const Deadline& deadline) override;
  [[nodiscard]] MachineSize size(const VmHandle& vm, const Deadline& deadline) override;
  // Counters are the script's; a dump is a file without content.
  [[nodiscard]] std::vector<Counter> counters(const VmHandle& vm, const Deadline& deadline) override;
  void inject_nmi(const VmHandle& vm, const Deadline& deadline) override;
  void dump_memory(const VmHandle& vm, const std::filesystem::path& file, const Deadline& deadline) override;
  /// Notes a call, and does what the script says of every call of that name: takes its time, but no more than `most`, and fails.
  void begin(const char* call, const VmHandle& vm, std::chrono::milliseconds most = std::chrono::hours(1));

  const NoopScript script_;
  const std::shared_ptr<World> world_;
};

}  // namespace vmtest
