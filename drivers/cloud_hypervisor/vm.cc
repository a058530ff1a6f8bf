#include "vm.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "snapshot.h"
#include "version.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"

namespace vmtest::cloud_hypervisor {
namespace {

namespace fs = std::filesystem;

constexpr const char* kProgram = "cloud-hypervisor";
constexpr const char* kProgramVariable = "VMTEST_CLOUD_HYPERVISOR";
constexpr const char* kFirmwareVariable = "VMTEST_CLOUD_HYPERVISOR_FIRMWARE";
constexpr std::size_t kFolderDigits = 4;
/// Opening disks and loading a kernel, or a guest's whole memory, on a crowded host.
constexpr std::chrono::seconds kBootTime{60};
/// Nothing tells when a guest has let go of a device: its being gone from the description does.
constexpr std::chrono::milliseconds kRemovalPoll{5};
constexpr std::chrono::milliseconds kLongestRemovalPoll{100};

/// Of a process, in the VM's runtime folder.
fs::path folder_name(const std::string& digits) { return "p" + digits; }

VmState state_of(State state) {
  switch (state) {
    case State::Created:
      return VmState::Starting;
    case State::Running:
    case State::BreakPoint:
      return VmState::Running;
    case State::Paused:
      return VmState::Suspended;
    case State::Shutdown:
      return VmState::Stopped;
  }
  return VmState::Failed;
}

/// A description whose disks of those ids are those files.
nlohmann::json with_disks(nlohmann::json description, const std::map<std::string, fs::path>& files) {
  const auto disks = description.find("disks");
  if (disks == description.end() || !disks->is_array()) return description;
  for (nlohmann::json& disk : *disks) {
    if (const auto file = files.find(disk.value("id", "")); file != files.end()) disk["path"] = file->second.string();
  }
  return description;
}

}  // namespace

fs::path find_cloud_hypervisor() {
  const char* named = std::getenv(kProgramVariable);
  if (named != nullptr && *named != '\0') {
    if (::access(named, X_OK) != 0) throw Error(std::string(kProgramVariable) + "=" + named + " is no program");
    return fs::absolute(named);
  }
  if (const auto found = find_program(kProgram)) return *found;
  throw Error(std::string("Cloud Hypervisor is not installed: ") + kProgram + " is not in PATH and " + kProgramVariable +
              " names none; Debian has no package, its project publishes a static program");
}

fs::path path_like(const char* socket) { return folder_name(std::string(kFolderDigits, '0')) / socket; }

fs::path find_firmware() {
  const char* named = std::getenv(kFirmwareVariable);
  if (named == nullptr || *named == '\0') {
    throw Unsupported(
        std::string("Cloud Hypervisor boots by UEFI with firmware made for it only, which Debian has no package of: get "
                    "CLOUDHV.fd (https://github.com/cloud-hypervisor/edk2/releases) and set ") +
        kFirmwareVariable + " to its path");
  }
  if (::access(named, R_OK) != 0)
    throw Unsupported(std::string(kFirmwareVariable) + "=" + named + " is no file that can be read");
  return fs::absolute(named);
}

VmExit judge_ending(const Ending& ending) {
  VmExit exit;
  exit.last_words = ending.last_words;
  exit.how = "Cloud Hypervisor ended with " + to_string(ending.status);
  if (ending.asked) {
    exit.orderly = true;
    exit.how = "Cloud Hypervisor was stopped as asked (" + to_string(ending.status) + ")";
  } else if (!ending.status.ok()) {
    exit.orderly = false;
  } else if (ending.panicked) {
    exit.how = "the guest's kernel panicked";
  } else {
    // It ends the same way when a signal tells it to.
    exit.orderly = true;
    exit.how = "the guest powered off, or somebody ended Cloud Hypervisor by a signal";
  }
  return exit;
}

CloudHypervisorVm::CloudHypervisorVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner)
    : SupervisedVm(std::move(handle), std::move(supervisor), owner, {kProcess, "Cloud Hypervisor", true}) {}

VmConfig CloudHypervisorVm::describe(const MachineConfig& machine) const {
  if (machine.architecture != host_architecture()) {
    throw Unsupported("Cloud Hypervisor runs guests of the host's architecture, " + std::string(to_string(host_architecture())) +
                      ", not " + std::string(to_string(machine.architecture)));
  }
  Paths paths{handle().runtime_dir};
  if (!machine.nics.empty() && machine.nics.front().tap_name.empty()) paths.gateway = handle().gateway;
  if (machine.boot == BootMode::Uefi && !machine.uefi) paths.firmware = find_firmware();
  VmConfig config = vm_config(machine, paths);
  for (const NetConfig& net : config.net) {
    if (net.tap.empty() && net.ip.empty()) throw Error("network card " + net.mac + " is on no TAP");
  }
  return config;
}

SupervisedProcess CloudHypervisorVm::command(const std::vector<std::string>& options, const MachineConfig& machine) const {
  SupervisedProcess process;
  process.argv = {find_cloud_hypervisor().string()};
  process.argv.insert(process.argv.end(), options.begin(), options.end());
  process.argv.insert(process.argv.end(), {"--event-monitor", path_option(event_file())});
  process.argv.insert(process.argv.end(), machine.extra_arguments.begin(), machine.extra_arguments.end());
  process.log_file = kLog;
  // It binds to no socket that is there.
  fs::remove(handle().runtime_dir / kApiSocket);
  fs::remove(event_file());
  leave_folder();
  process.serial = kSerialSocket;
  process.directory = make_folder();
  enter_folder(process.directory);
  return process;
}

fs::path CloudHypervisorVm::make_folder() const {
  const fs::path folder = handle().runtime_dir / folder_name(random_hex(kFolderDigits));
  fs::create_directory(folder);
  fs::permissions(folder, fs::perms::owner_all);
  return folder;
}

void CloudHypervisorVm::enter_folder(const fs::path& folder) const {
  const fs::path name = handle().runtime_dir / kVsockSocket;
  const fs::path next = name.string() + ".next";
  fs::remove(next);
  fs::create_symlink(folder / kVsockSocket, next);
  fs::rename(next, name);
}

void CloudHypervisorVm::leave_folder() const {
  std::error_code error;
  const fs::path socket = fs::read_symlink(handle().runtime_dir / kVsockSocket, error);
  if (!error) fs::remove_all(socket.parent_path());
}

void CloudHypervisorVm::await_console() {
  await_up([&] { return supervisor().status().consoles.contains(kProcess); });
}

std::vector<Event> CloudHypervisorVm::events() const {
  std::error_code error;
  if (!fs::exists(event_file(), error)) return {};
  return EventStream().take(read_file(event_file()));
}

bool CloudHypervisorVm::has_event(const Event& event) const {
  const std::vector<Event> all = events();
  return std::find(all.begin(), all.end(), event) != all.end();
}

VmExit CloudHypervisorVm::judge(const SupervisedExit& exit, bool asked) {
  return judge_ending({exit.status, exit.last_words, has_event({"guest", "panic"}), asked});
}

ApiVm::ApiVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner)
    : CloudHypervisorVm(std::move(handle), std::move(supervisor), owner), api_(this->handle().runtime_dir / kApiSocket) {}

void ApiVm::launch(const MachineConfig& machine) {
  const VmConfig config = describe(machine);
  const std::vector<Companion> companions = companions_of(machine, handle().work_dir, handle().runtime_dir);
  run(command({"--api-socket", path_option(handle().runtime_dir / kApiSocket)}, machine), companions, [&] {
    const Deadline deadline = Deadline::after(kBootTime);
    if (!machine.restore_from.empty()) {
      const fs::path folder = handle().work_dir / "restore";
      with_context("cannot continue from " + machine.restore_from.string(), [&] {
        lay_out_snapshot(machine.restore_from, adapt(read_description(machine.restore_from), config), folder);
        continue_from(folder, deadline);
      });
      return;
    }
    write_file(handle().work_dir / "vm.json", to_json(config).dump(2) + "\n", 0600);
    api_.create(config, deadline);
    await_console();
    api_.boot(deadline);
  });
}

void ApiVm::continue_from(const fs::path& folder, const Deadline& deadline) {
  api_.restore({.folder = folder}, deadline);
  await_console();
  api_.resume(deadline);
}

void ApiVm::run(SupervisedProcess process, const std::vector<Companion>& companions, const std::function<void()>& begin) {
  spawn(std::move(process), companions, [&] {
    std::string version;
    await_up([&] {
      version = api_.ping(Deadline::after(kAnswerTime)).version;
      return true;
    });
    require_version(version);
    begin();
    const VmState now = running_state(Deadline::after(kAnswerTime));
    if (now != VmState::Running) throw Error("Cloud Hypervisor started, but its VM is " + std::string(to_string(now)));
  });
}

void ApiVm::suspend() { api_.pause(Deadline::after(kAnswerTime)); }
void ApiVm::resume() { api_.resume(Deadline::after(kAnswerTime)); }

bool ApiVm::press_power_button(VmState now, const Deadline& deadline) {
  // A suspended guest hears no power button.
  if (now == VmState::Suspended) api_.resume(deadline);
  api_.press_power_button(deadline);
  return true;
}

VmState ApiVm::running_state(const Deadline& deadline) { return state_of(api_.state(deadline)); }

void ApiVm::freeze(const fs::path& state_file, const Deadline& deadline) {
  if (running_state(deadline) == VmState::Running) api_.pause(deadline);
  write_snapshot(api_, state_file, deadline);
  mark_asked();
  api_.shutdown_vmm(deadline);
  if (!wait_exit(std::chrono::duration_cast<std::chrono::milliseconds>(deadline.remaining()))) {
    throw Timeout("Cloud Hypervisor does not end after its state was saved");
  }
}

std::chrono::microseconds ApiVm::checkpoint(const fs::path& state_file, const std::map<std::string, fs::path>& overlays,
                                            const Deadline& deadline) {
  const bool ran = running_state(deadline) == VmState::Running;
  const auto began = std::chrono::steady_clock::now();
  if (ran) api_.pause(deadline);
  try {
    write_snapshot(api_, state_file, deadline);
  } catch (...) {
    if (ran) api_.resume(Deadline::after(kAnswerTime));
    throw;
  }
  // It cannot have a disk continue in another file, so the VM continues in another process.
  const nlohmann::json description = with_disks(read_description(state_file), overlays);
  continue_in_another_process([&] { api_.shutdown_vmm(deadline); },
                              [&] {
                                run(command({"--api-socket", path_option(handle().runtime_dir / kApiSocket)}, {}), {}, [&] {
                                  const fs::path folder = handle().work_dir / "restore";
                                  lay_out_snapshot(state_file, description, folder);
                                  continue_from(folder, deadline);
                                });
                              });
  if (!ran) api_.pause(deadline);
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
}

void ApiVm::remove_device(const std::string& id, const Deadline& deadline) {
  api_.remove_device(id, deadline);
  for (auto pause = kRemovalPoll; api_.info(deadline).at("device_tree").contains(id);
       pause = std::min(2 * pause, kLongestRemovalPoll)) {
    if (deadline.expired()) throw Timeout("the guest does not let go of it");
    std::this_thread::sleep_for(
        std::min<std::chrono::milliseconds>(pause, std::chrono::duration_cast<std::chrono::milliseconds>(deadline.remaining())));
  }
}

void CommandLineVm::launch(const MachineConfig& machine) {
  if (!machine.restore_from.empty()) throw Unsupported("a frozen VM is continued by Cloud Hypervisor's API only");
  // Nobody can be asked once it runs.
  require_version(version_of(find_cloud_hypervisor()));
  const std::vector<Companion> companions = companions_of(machine, handle().work_dir, handle().runtime_dir);
  spawn(command(to_arguments(describe(machine)), machine), companions, [&] {
    await_up([&] { return has_event({"vm", "booted"}); });
  });
}

void CommandLineVm::suspend() { throw Unsupported("Cloud Hypervisor pauses a VM by its API only, not by its command line"); }
void CommandLineVm::resume() { throw Unsupported("Cloud Hypervisor resumes a VM by its API only, not by its command line"); }

}  // namespace vmtest::cloud_hypervisor
