// Freezing and forking: the device state by QEMU's migration through a passed descriptor, the memory by a file that it leaves
// out.

#include <fcntl.h>

#include <fstream>
#include <string>
#include <utility>

#include "companions/companions.h"
#include "file_identity.h"
#include "qemu_command_line.h"
#include "qemu_migration.h"
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
/// A QEMU that was told to quit.
constexpr std::chrono::seconds kQuitTime{20};
/// Where QEMU's firmware and boot ROMs are in Debian's packages. A template saved with one does not go on with another.
constexpr const char* kFirmwareFolders[] = {"/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu"};

/// Writes device state, and the memory that is in no shared file, through a descriptor: QEMU's sandbox lets it start nobody.
void write_state(QmpClient& qemu, const fs::path& state_file, SharedMemory memory, const Deadline& deadline) {
  prepare_to_send(qemu, memory, deadline);
  {
    const FileDescriptor state = open_file(state_file, O_WRONLY | O_CREAT | O_EXCL, 0600);
    qemu.pass_descriptor("state", state.get(), deadline);
  }
  qemu.execute("migrate", {{"uri", "fd:state"}}, deadline);
  (void)wait_migrated(qemu, "the state is not written", deadline);
}

/// Whether a state was written without shared memory: its configuration section, which comes first, names the capability.
SharedMemory shared_memory_of(const fs::path& state_file) {
  constexpr std::size_t kHead = 4096;
  std::string head(kHead, '\0');
  std::ifstream stream(state_file, std::ios::binary);
  stream.read(head.data(), static_cast<std::streamsize>(head.size()));
  return head.find(kIgnoreShared) == std::string::npos ? SharedMemory::Sent : SharedMemory::LeftOut;
}

}  // namespace

json top_node(const json& blocks, const std::string& disk) {
  for (const json& block : blocks) {
    const std::string device = block.value("qdev", "");
    if (device != disk && device.find("/" + disk + "/") == std::string::npos) continue;
    return block.at("inserted");
  }
  throw Error("the machine has no disk \"" + disk + "\"");
}

void QemuVm::restore(QmpClient& qemu, const fs::path& state_file) {
  const Deadline deadline = Deadline::after(kRestoreTime);
  with_context("cannot continue from " + state_file.string(), [&] {
    set_shared_memory(qemu, shared_memory_of(state_file), deadline);
    {
      const FileDescriptor state = open_file(state_file, O_RDONLY);
      qemu.pass_descriptor("state", state.get(), deadline);
    }
    qemu.execute("migrate-incoming", {{"uri", "fd:state"}}, deadline);
    (void)wait_migrated(qemu, "the device state is not taken", deadline);
    // Disks are opened for writing only now: one that is in use elsewhere shows here.
    qemu.execute("cont", deadline);
  });
}

void QemuVm::freeze(const fs::path& state_file, const Deadline& deadline) {
  const auto qemu = qmp(deadline);
  qemu->execute("stop", deadline);
  write_state(*qemu, state_file, SharedMemory::LeftOut, deadline);
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
      const json arguments = {{"node-name", top_node(blocks, id).at("node-name")},
                              {"snapshot-file", overlay.string()},
                              {"snapshot-node-name", "layer-" + random_hex(16)},
                              {"format", "qcow2"},
                              {"mode", "existing"}};
      actions.push_back({{"type", "blockdev-snapshot-sync"}, {"data", arguments}});
    }
    if (!actions.empty()) qemu->execute("transaction", {{"actions", actions}}, deadline);
    // The file goes on changing.
    write_state(*qemu, state_file, SharedMemory::Sent, deadline);
  } catch (...) {
    const Deadline soon = Deadline::after(kQuitTime);
    // One that is under way would halt the guest at its end.
    call_off(*qemu, soon);
    if (ran) qemu->execute("cont", soon);
    throw;
  }
  if (ran) qemu->execute("cont", deadline);
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
}

std::optional<std::string> QemuDriver::obstacle(const MachineConfig& machine) const {
  if (!machine.extra_arguments.empty()) return "extra arguments for QEMU may bring devices whose state cannot be saved";
  for (const NicConfig& nic : machine.nics) {
    if (!nic.host_address.empty())
      return "a card that was plugged in has a TAP of its own, which cannot be another VM's too; detach it";
    if (!nic.tap_name.empty())
      return "a TAP of the host's may be part of a larger network, where its MAC address would be there twice";
  }
  // QEMU 7.2 gives the host back what a balloon takes by a hole in the memory's file, though that is mapped privately.
  if (machine.memory_balloon) return "what a balloon takes from a fork would be gone from its template's memory too";
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
  // Of a QEMU that was not installed from a package.
  text += identity_of_folder(fs::canonical(program).parent_path().parent_path() / "share/qemu");
  if (machine.uefi) text += identity_of_file(machine.uefi->code) + identity_of_file(machine.uefi->variables);
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
