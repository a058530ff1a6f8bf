#include "vz/vm.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/types.h"
#include "vz/capabilities.h"
#include "vz/vm_config.h"

namespace vmtest::vz_driver {
namespace {

namespace fs = std::filesystem;

constexpr const char* kApiSocket = "api.sock";
/// Opening disks and loading a kernel, or a guest's whole memory, on a crowded host.
constexpr std::chrono::seconds kBootTime{60};
constexpr int kNoVm = 404;

// Beside a state, which fits no VM without them: the identifier of its machine, and the variables of its firmware if it has any.
fs::path identifier_beside(const fs::path& state_file) { return state_file.string() + ".machine"; }
fs::path variables_beside(const fs::path& state_file) { return state_file.string() + ".variables"; }

std::string because(const std::string& why) { return why.empty() ? "" : ": " + why; }

}  // namespace

VmState state_of(State state) {
  switch (state) {
    case State::Starting:
    case State::Restoring:
      return VmState::Starting;
    case State::Running:
    case State::Pausing:
    case State::Stopping:
      return VmState::Running;
    case State::Paused:
    case State::Resuming:
    case State::Saving:
      return VmState::Suspended;
    case State::Stopped:
      return VmState::Stopped;
    case State::Error:
      break;
  }
  return VmState::Failed;
}

VmExit judge_ending(const Ending& ending) {
  VmExit exit;
  exit.last_words = ending.last_words;
  exit.how = "the VZ helper ended with " + to_string(ending.status);
  if (ending.asked) {
    exit.orderly = true;
    exit.how = "the VM was stopped as asked (the VZ helper ended with " + to_string(ending.status) + ")";
    return exit;
  }
  for (const Event& event : ending.events) {
    if (event.name == "stopped-with-error") {
      exit.how = "Virtualization.framework stopped the VM" + because(event.why);
      return exit;
    }
    if (event.name == "guest-stopped") {
      exit.orderly = true;
      exit.how = "the guest powered off";
      return exit;
    }
    if (event.name == "exit" && ending.status.ok()) {
      exit.orderly = true;
      exit.how = "somebody ended the VZ helper" + because(event.why);
      return exit;
    }
  }
  return exit;
}

VzVm::VzVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner)
    : SupervisedVm(std::move(handle), std::move(supervisor), owner, {"vmtest-vz-helper", "the VZ helper"}),
      api_(this->handle().runtime_dir / kApiSocket) {}

void VzVm::launch(const MachineConfig& machine) {
  const fs::path helper = find_helper();
  const HostCapabilities& host = host_capabilities(helper);
  if (machine.architecture != host_architecture()) {
    throw Unsupported("Virtualization.framework runs guests of the host's architecture, " +
                      std::string(to_string(host_architecture())) + ", not " + std::string(to_string(machine.architecture)));
  }
  if (const auto why = host.why_not("efi-boot"); why && machine.boot == BootMode::Uefi) {
    throw Unsupported(*why + "; boot a kernel directly, or use QEMU");
  }
  const Identifier identifier = host.why_not("machine-identifier") ? Identifier::Missing : Identifier::Offered;
  const nlohmann::json config = vm_config(machine, {handle().work_dir, handle().runtime_dir}, identifier);
  const bool continues = !machine.restore_from.empty();
  if (continues) {
    with_context("cannot continue from " + machine.restore_from.string(), [&] {
      if (const auto why = host.why_not("save-restore")) throw Unsupported(*why);
      if (std::any_of(machine.disks.begin(), machine.disks.end(), [](const DiskConfig& disk) { return disk.hotplug_port; })) {
        throw Unsupported("it is not known whether a saved state has the USB disks that were plugged in");
      }
      fs::copy_file(identifier_beside(machine.restore_from), handle().work_dir / kMachineIdentifier,
                    fs::copy_options::overwrite_existing);
      if (machine.boot == BootMode::Uefi) {
        fs::copy_file(variables_beside(machine.restore_from), handle().work_dir / kVariableStore,
                      fs::copy_options::overwrite_existing);
      }
    });
  }
  write_file(handle().work_dir / "vm.json", config.dump(2) + "\n", 0600);
  fs::remove(event_file());

  SupervisedProcess process;
  process.argv = {helper.string(), "--api-socket", (handle().runtime_dir / kApiSocket).string(), "--event-file",
                  event_file().string()};
  process.log_file = "vz-helper.log";
  spawn(std::move(process), [&] {
    await_up([&] {
      api_.ping(Deadline::after(kAnswerTime));
      return true;
    });
    const Deadline deadline = Deadline::after(kBootTime);
    api_.create(config, deadline);
    if (continues) {
      with_context("cannot continue from " + machine.restore_from.string(), [&] {
        api_.restore(machine.restore_from, deadline);
        api_.resume(deadline);
      });
    } else {
      api_.boot(deadline);
      for (const DiskConfig& disk : machine.disks) {
        if (disk.hotplug_port) api_.attach_usb_disk(usb_disk(disk), deadline);
      }
    }
    const VmState now = running_state(Deadline::after(kAnswerTime));
    if (now != VmState::Running) throw Error("the VZ helper started, but its VM is " + std::string(to_string(now)));
  });
}

void VzVm::suspend() { api_.pause(Deadline::after(kAnswerTime)); }
void VzVm::resume() { api_.resume(Deadline::after(kAnswerTime)); }

bool VzVm::press_power_button(VmState now, const Deadline& deadline) {
  // A suspended guest hears no power button.
  if (now == VmState::Suspended) api_.resume(deadline);
  api_.press_power_button(deadline);
  return true;
}

VmState VzVm::running_state(const Deadline& deadline) {
  try {
    return state_of(api_.state(deadline));
  } catch (const Refused& refused) {
    if (refused.status() == kNoVm) return VmState::Starting;
    throw;
  }
}

VmExit VzVm::judge(const SupervisedExit& exit, bool asked) {
  std::error_code error;
  std::vector<Event> events;
  if (fs::exists(event_file(), error)) events = parse_events(read_file(event_file()));
  return judge_ending({exit.status, exit.last_words, std::move(events), asked});
}

void VzVm::write_state(const fs::path& state_file, const Deadline& deadline) const {
  api_.save(state_file, deadline);
  fs::copy_file(handle().work_dir / kMachineIdentifier, identifier_beside(state_file), fs::copy_options::overwrite_existing);
  std::vector<fs::path> written = {state_file, identifier_beside(state_file)};
  if (const fs::path variables = handle().work_dir / kVariableStore; fs::exists(variables)) {
    written.push_back(variables_beside(state_file));
    fs::copy_file(variables, written.back(), fs::copy_options::overwrite_existing);
  }
  for (const fs::path& file : written) fs::permissions(file, fs::perms::owner_read | fs::perms::owner_write);
}

void VzVm::freeze(const fs::path& state_file, const Deadline& deadline) {
  if (running_state(deadline) == VmState::Running) api_.pause(deadline);
  write_state(state_file, deadline);
  mark_asked();
  api_.shutdown(deadline);
  if (!wait_exit(std::chrono::duration_cast<std::chrono::milliseconds>(deadline.remaining()))) {
    throw Timeout("the VZ helper does not end after its VM's state was saved");
  }
}

std::chrono::microseconds VzVm::checkpoint(const fs::path& state_file, const Deadline& deadline) {
  const bool ran = running_state(deadline) == VmState::Running;
  const auto began = std::chrono::steady_clock::now();
  if (ran) api_.pause(deadline);
  try {
    write_state(state_file, deadline);
  } catch (...) {
    if (ran) api_.resume(Deadline::after(kAnswerTime));
    throw;
  }
  if (ran) api_.resume(deadline);
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
}

}  // namespace vmtest::vz_driver
