// Freezing and forking: the device state by QEMU's migration through a passed descriptor, the memory by a file that it leaves
// out.

#include <fcntl.h>

#include <thread>
#include <utility>

#include "companions/companions.h"
#include "file_identity.h"
#include "qemu_command_line.h"
#include "qemu_vm.h"
#include "state_rules.h"
#include "vmtest/error.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"
#include "vmtest/qemu_driver.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A device state is below a megabyte: it is written and read in tens of milliseconds on an idle host.
constexpr std::chrono::seconds kRestoreTime{60};
/// QEMU tells nobody when a migration is over unless asked: this is how often we ask.
constexpr std::chrono::microseconds kMigrationPoll{500};
/// A QEMU that was told to quit.
constexpr std::chrono::seconds kQuitTime{20};
/// Bytes a second.
constexpr std::int64_t kUnlimited = std::int64_t{1} << 40;
/// Where QEMU's firmware and boot ROMs are in Debian's packages. A template saved with one does not go on with another.
constexpr const char* kFirmwareFolders[] = {"/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu"};

/// Waits for the end of a migration in either direction. An incoming one that fails ends QEMU, which execute() reports.
void wait_migrated(QmpClient& qemu, const char* what, const Deadline& deadline) {
  for (;;) {
    const json state = qemu.execute("query-migrate", deadline);
    const std::string status = state.value("status", "none");
    if (status == "completed") return;
    if (status == "failed" || status == "cancelled") throw Error(std::string(what) + ": " + state.value("error-desc", status));
    if (deadline.expired()) throw Timeout(std::string(what) + ": it is " + status);
    std::this_thread::sleep_for(kMigrationPoll);
  }
}

void leave_shared_memory_out(QmpClient& qemu, const Deadline& deadline) {
  const json capability = {{"capability", "x-ignore-shared"}, {"state", true}};
  qemu.execute("migrate-set-capabilities", {{"capabilities", json::array({capability})}}, deadline);
}

/// Writes device state, and the memory that is in no shared file, through a descriptor: QEMU's sandbox lets it start nobody.
void write_state(QmpClient& qemu, const fs::path& state_file, const Deadline& deadline) {
  leave_shared_memory_out(qemu, deadline);
  // A file takes it as fast as it comes.
  qemu.execute("migrate-set-parameters", {{"max-bandwidth", kUnlimited}}, deadline);
  {
    const FileDescriptor state = open_file(state_file, O_WRONLY | O_CREAT | O_EXCL, 0600);
    qemu.pass_descriptor("state", state.get(), deadline);
  }
  qemu.execute("migrate", {{"uri", "fd:state"}}, deadline);
  wait_migrated(qemu, "the state is not written", deadline);
}

/// The name of the block node that a disk's device writes to at present.
std::string top_node(const json& blocks, const std::string& disk) {
  for (const json& block : blocks) {
    const std::string device = block.value("qdev", "");
    if (device != disk && device.find("/" + disk + "/") == std::string::npos) continue;
    return block.at("inserted").at("node-name");
  }
  throw Error("the machine has no disk \"" + disk + "\"");
}

}  // namespace

void QemuVm::restore(QmpClient& qemu, const fs::path& state_file) {
  const Deadline deadline = Deadline::after(kRestoreTime);
  with_context("cannot continue from " + state_file.string(), [&] {
    leave_shared_memory_out(qemu, deadline);
    {
      const FileDescriptor state = open_file(state_file, O_RDONLY);
      qemu.pass_descriptor("state", state.get(), deadline);
    }
    qemu.execute("migrate-incoming", {{"uri", "fd:state"}}, deadline);
    wait_migrated(qemu, "the device state is not taken", deadline);
    // Disks are opened for writing only now: one that is in use elsewhere shows here.
    qemu.execute("cont", deadline);
  });
}

void QemuVm::freeze(const fs::path& state_file, const Deadline& deadline) {
  const auto qemu = qmp(deadline);
  qemu->execute("stop", deadline);
  write_state(*qemu, state_file, deadline);
  mark_asked();
  try {
    qemu->execute("quit", deadline);
  } catch (const Timeout&) {
    throw;
  } catch (const Error&) {  // it may be gone before it answers
  }
  if (!wait_exit(kQuitTime)) throw Timeout("QEMU does not end after its state was saved");
}

std::chrono::microseconds QemuVm::checkpoint(const fs::path& state_file, const std::map<std::string, fs::path>& overlays,
                                             const Deadline& deadline) {
  const auto qemu = qmp(deadline);
  const bool ran = qemu->execute("query-status", deadline).at("running");
  const auto began = std::chrono::steady_clock::now();
  qemu->execute("stop", deadline);
  try {
    // All disks or none.
    json actions = json::array();
    const json blocks = qemu->execute("query-block", deadline);
    for (const auto& [id, overlay] : overlays) {
      const json arguments = {{"node-name", top_node(blocks, id)},
                              {"snapshot-file", overlay.string()},
                              {"snapshot-node-name", "layer-" + random_hex(16)},
                              {"format", "qcow2"},
                              {"mode", "existing"}};
      actions.push_back({{"type", "blockdev-snapshot-sync"}, {"data", arguments}});
    }
    if (!actions.empty()) qemu->execute("transaction", {{"actions", actions}}, deadline);
    write_state(*qemu, state_file, deadline);
  } catch (...) {
    if (ran) qemu->execute("cont", Deadline::after(kQuitTime));
    throw;
  }
  if (ran) qemu->execute("cont", deadline);
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
}

std::optional<std::string> QemuDriver::obstacle(const MachineConfig& machine) const {
  if (!machine.extra_arguments.empty()) return "extra arguments for QEMU may bring devices whose state cannot be saved";
  for (const NicConfig& nic : machine.nics) {
    if (!nic.tap_name.empty())
      return "a TAP of the host's may be part of a larger network, where its MAC address would be there twice";
  }
  if (machine.vnc) return "a display is not forked";
  return companion_obstacle(machine);
}

std::string QemuDriver::fingerprint(const MachineConfig& machine) const {
  const std::string name = qemu_program(machine.architecture);
  const fs::path program = find_program(name).value_or(name);
  MachineConfig general = machine;
  for (DiskConfig& disk : general.disks) disk.path = "/" + disk.id;
  for (NicConfig& nic : general.nics) nic.mac_address.clear();
  if (general.uefi) general.uefi->variables = "/efivars.fd";
  if (general.memory_file) general.memory_file = MemoryFile{"/memory", MemoryFile::Mapping::Shared};
  general.restore_from.clear();
  std::string text = format_command(qemu_command_line(general, {program, "template", "/", "/", 1})) + "\n";
  text += identity_of_file(fs::canonical(program));
  if (machine.accelerator == Accelerator::Kvm) text += identity_of_processor();
  for (const char* folder : kFirmwareFolders) text += identity_of_folder(folder);
  if (machine.uefi) text += identity_of_file(machine.uefi->code);
  if (!machine.kernel.empty()) text += identity_of_file(machine.kernel);
  if (!machine.initramfs.empty()) text += identity_of_file(machine.initramfs);
  return text;
}

void QemuDriver::save(const VmHandle& vm, const fs::path& state_file, const Deadline& deadline) {
  const auto target = require_qemu(vm, "be frozen");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running, VmState::Suspended}, "be frozen");
  with_context("cannot freeze VM \"" + vm.name + "\"", [&] { target->freeze(state_file, deadline); });
}

std::chrono::microseconds QemuDriver::checkpoint(const VmHandle& vm, const fs::path& state_file,
                                                 const std::map<std::string, fs::path>& overlays, const Deadline& deadline) {
  const auto target = require_qemu(vm, "be checkpointed");
  const std::lock_guard lock(target->order());
  require_state(target->handle(), target->state(), {VmState::Running, VmState::Suspended}, "be checkpointed");
  return with_context("cannot checkpoint VM \"" + vm.name + "\"",
                      [&] { return target->checkpoint(state_file, overlays, deadline); });
}

FileDescriptor QemuDriver::connect_agent(const VmHandle& vm, const Deadline&) {
  return with_context("the guest agent of VM \"" + vm.name + "\" cannot be reached",
                      [&] { return connect_unix(vm.runtime_dir / kAgentSocket); });
}

}  // namespace vmtest
