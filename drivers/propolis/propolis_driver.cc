#include "vmtest/propolis_driver.h"

#include <chrono>
#include <functional>
#include <set>
#include <system_error>
#include <utility>

#include "network/tap.h"
#include "run_plan.h"
#include "settings.h"
#include "supervised/host_side.h"
#include "vm.h"
#include "vmtest/error.h"
#include "vmtest/host/file_lock.h"
#include "vmtest/host/process.h"
#include "vmtest/types.h"

namespace vmtest {
namespace {

/// A zone takes seconds to halt and to uninstall.
constexpr std::chrono::minutes kTakeBackTime{5};

/// Those wanted of the journals whose run has ended.
std::vector<std::filesystem::path> journals_left(const std::function<bool(const std::filesystem::path&)>& wanted) {
  std::set<std::filesystem::path> journals;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(propolis::journals_dir(), none)) {
    std::filesystem::path journal = entry.path();
    if (journal.extension() == propolis::kJournalLockSuffix) journal.replace_extension();
    if (wanted(journal)) journals.insert(journal);
  }
  std::vector<std::filesystem::path> left;
  for (const std::filesystem::path& journal : journals) {
    // Who lives holds the lock of its journal.
    if (FileLock::try_lock(journal.string() + propolis::kJournalLockSuffix)) left.push_back(journal);
  }
  return left;
}

}  // namespace

PropolisDriver::PropolisDriver() : SupervisedDriver(DriverKind::Propolis) {}

std::optional<std::string> PropolisDriver::unavailable_reason() const {
  try {
    if (host_architecture() != Architecture::X86_64) return "Propolis runs on x86_64 hosts only";
    (void)propolis::read_settings();
    (void)propolis::find_keeper();
    return std::nullopt;
  } catch (const Error& error) {
    return error.what();
  }
}

DiskNeeds PropolisDriver::disk_needs() const { return {{DiskFormat::Raw}, false}; }

ConsoleEndpoint PropolisDriver::console_endpoint(const VmHandle& vm) const {
  return {ConsoleEndpoint::Kind::UnixSocket, (vm.runtime_dir / propolis::kConsoleSocket).string(),
          vm.work_dir / propolis::kConsoleLog};
}

std::vector<std::filesystem::path> PropolisDriver::leftovers() {
  return journals_left([](const std::filesystem::path&) { return true; });
}

void PropolisDriver::take_back(const std::filesystem::path& journal) {
  run_tool({propolis::find_keeper().string(), "undo", journal.string()}, Deadline::after(kTakeBackTime));
}

std::string PropolisDriver::left_behind(const VmHandle& vm) const {
  std::string why;
  for (const auto& journal : journals_left([&](const auto& each) { return propolis::is_journal_of(vm, each); }))
    why += (why.empty() ? "" : "\n") + propolis::why_left(journal);
  return why;
}

std::unique_ptr<SupervisedVm> PropolisDriver::make_vm(const VmHandle& vm, std::shared_ptr<SupervisorConnection> supervisor,
                                                      Owner owner) const {
  return std::make_unique<propolis::PropolisVm>(vm, std::move(supervisor), owner);
}

HostSide PropolisDriver::take_host_side(const PrepareRequest& request) const { return take_tap_networks(request); }

Support PropolisDriver::support(Capability capability) const {
  const auto supported = [] { return Support{Support::Kind::Supported, ""}; };
  const auto impossible = [](std::string why) { return Support{Support::Kind::NotOffered, std::move(why)}; };
  const auto not_built = [&](const char* by) { return impossible(std::string("Propolis could, ") + by + "; not built yet"); };
  switch (capability) {
    case Capability::Boot:
    case Capability::Kill:
    case Capability::QueryState:
    case Capability::Reboot:
    case Capability::Delete:
    case Capability::VcpuCount:
    case Capability::MemorySize:
    case Capability::RootDisk:
    case Capability::SeedIso:
    case Capability::DataDisk:
    case Capability::DiskClone:
    case Capability::CustomMac:
    case Capability::SerialFile:
    case Capability::ReadinessMarker:
    case Capability::UefiBoot:
      return supported();
    case Capability::Entropy:
      return impossible("Propolis has no such device; a guest takes random numbers from its CPU");
    case Capability::Tap:
      return tap_support();
    case Capability::Nat:
      return impossible("Propolis has no network of its own; a VNIC reaches its host");
    case Capability::StopGraceful:
      return impossible("Propolis' API has no power button; a guest is asked from within");
    case Capability::PauseResume:
      return impossible("Propolis' API has no pause");
    case Capability::Snapshot:
    case Capability::Restore:
      return impossible("Propolis saves no state but in a migration");
    case Capability::LiveMigration:
      return not_built("by an instance that begins as a migration's target");
    case Capability::Vsock:
      return impossible("Propolis' socket device leads to its attestation service alone");
    case Capability::BridgedNetwork:
      return not_built("by a VNIC over the link that is bridged");
    case Capability::L2Switch:
      return not_built("by VNICs over one etherstub");
    case Capability::Graphics:
      return not_built("by its VNC port");
    case Capability::CpuHotplug:
    case Capability::MemoryHotplug:
    case Capability::DiskHotplug:
    case Capability::NetworkHotplug:
      return impossible("Propolis plugs nothing in while the guest runs");
    case Capability::CpuTopology:
    case Capability::CpuAffinity:
    case Capability::MemoryBalloon:
    case Capability::HugePages:
    case Capability::MemoryZones:
    case Capability::DiskResize:
    case Capability::DiskCacheModes:
    case Capability::DiskRateLimit:
    case Capability::SocketPair:
    case Capability::VhostUserNet:
    case Capability::VirtioFs:
    case Capability::ReadOnlyShare:
    case Capability::Counters:
    case Capability::Vfio:
    case Capability::Vdpa:
    case Capability::Tpm:
    case Capability::Watchdog:
    case Capability::Audio:
      return impossible("Propolis' API has no such device or call");
    case Capability::Rosetta:
    case Capability::MacOsGuest:
      return impossible("only Apple's Virtualization framework has it");
  }
  return impossible("unknown");
}

}  // namespace vmtest
