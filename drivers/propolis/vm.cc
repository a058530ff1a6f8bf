#include "vm.h"

#include <cerrno>
#include <utility>

#include "api_client.h"
#include "efi_disk.h"
#include "illumos_plan.h"
#include "instance_spec.h"
#include "network/tap.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"

namespace vmtest::propolis {
namespace {

namespace fs = std::filesystem;

/// Of a disk with a kernel and an initramfs, some 50 MiB.
constexpr std::chrono::seconds kDiskTime{60};
/// From the end of its server to the keeper's own.
constexpr std::chrono::seconds kKeeperEndTime{3};
/// What tells the journals of a VM's runs apart.
constexpr std::size_t kRunDigits = 8;

VmState state_of(State state) {
  switch (state) {
    case State::Creating:
    case State::Starting:
    case State::Migrating:
      return VmState::Starting;
    case State::Running:
    case State::Rebooting:
    case State::Repairing:
      return VmState::Running;
    case State::Stopping:
    case State::Stopped:
    case State::Destroyed:
      return VmState::Stopped;
    case State::Failed:
      return VmState::Failed;
  }
  return VmState::Failed;
}

/// "propolis-<uuid>" without its driver.
std::string uuid_of(const VmHandle& vm) { return vm.id.substr(vm.id.find('-') + 1); }

/// What a VM's journals begin with. Its name alone is another VM's too, of another VMTEST_HOME.
std::string journal_prefix(const VmHandle& vm) { return vm.name + "-" + uuid_of(vm).substr(0, 8) + "-"; }

}  // namespace

std::string link_name(const VmHandle& vm) { return "vmtest" + uuid_of(vm).substr(0, 8) + "0"; }

RunPlan run_plan(const VmHandle& vm, const Settings& settings, const std::vector<LinkPlan>& links, const std::string& run) {
  RunPlan plan;
  plan.body = vm.work_dir / "instance.json";
  plan.console_log = vm.work_dir / kConsoleLog;
  plan.console_socket = vm.runtime_dir / kConsoleSocket;
  plan.running = vm.runtime_dir / "server.json";
  plan.journal = journals_dir() / (journal_prefix(vm) + run + ".json");
  if (settings.source == Settings::Source::Program) {
    plan.program = settings.program;
    plan.bootrom = settings.bootrom;
    plan.server_log = vm.work_dir / "propolis-server.log";
  } else {
    plan.host = settings.host;
    plan.port = settings.port;
  }
  for (const LinkPlan& link : links) {
    const std::vector<Step> steps = settings.link.empty() ? tap_steps(link) : vnic_steps(link, settings.link);
    plan.steps.insert(plan.steps.end(), steps.begin(), steps.end());
  }
  if (settings.source == Settings::Source::Zone) {
    const std::string zone = "vmtest-" + uuid_of(vm).substr(0, 8);
    const std::vector<Step> steps = zone_steps({.zone = zone,
                                                .brand = settings.brand,
                                                .zonepath = vm.work_dir / "zone",
                                                .vnic = links.empty() ? "" : links.front().name,
                                                .snapshot = settings.snapshot,
                                                .dataset = settings.dataset + "/" + zone});
    plan.steps.insert(plan.steps.end(), steps.begin(), steps.end());
  }
  return plan;
}

bool is_journal_of(const VmHandle& vm, const fs::path& journal) {
  const std::string name = journal.stem().string();
  const std::string prefix = journal_prefix(vm);
  return name.size() == prefix.size() + kRunDigits && name.compare(0, prefix.size(), prefix) == 0;
}

PropolisVm::PropolisVm(VmHandle handle, std::shared_ptr<SupervisorConnection> supervisor, Owner owner)
    : SupervisedVm(std::move(handle), std::move(supervisor), owner, {"propolis-keeper", "Propolis"}) {}

std::vector<LinkPlan> PropolisVm::links(const MachineConfig& machine, const Settings&) const {
  std::vector<LinkPlan> links;
  for (const NicConfig& nic : machine.nics) {
    if (nic.kind != NicKind::Tap) throw Unsupported("Propolis has no network of its own: a card is on a VNIC (Network::Tap)");
    if (!nic.tap_name.empty()) throw Unsupported("a card of Propolis' is on a VNIC of its own, not on one of the host's");
    if (!links.empty()) throw Unsupported("only the first card's VNIC is made");
    if (handle().gateway.empty()) throw Error("network card " + nic.mac_address + " is on no VNIC");
    links.push_back({.name = link_name(handle()),
                     .mac_address = nic.mac_address,
                     .host_address = handle().gateway + "/" + std::to_string(kTapPrefixLength)});
  }
  return links;
}

void PropolisVm::write_body(MachineConfig machine, const Settings& settings, const RunPlan& plan,
                            const std::vector<LinkPlan>& links) const {
  InstanceParts parts{.id = uuid_of(handle()), .name = handle().name, .vnics = {}};
  for (const LinkPlan& link : links) parts.vnics.push_back(link.name);
  const bool zone = settings.source == Settings::Source::Zone;
  if (zone && machine.boot == BootMode::Direct)
    throw Unsupported("a zone boots the clone of its snapshot by UEFI, no kernel of this host's");
  for (DiskConfig& disk : machine.disks) {
    if (zone && !disk.read_only) {
      if (disk.id != "root") throw Unsupported("a zone has the clone of its snapshot as its root disk, and none but that");
      disk.path = volume_device(settings.dataset + "/vmtest-" + uuid_of(handle()).substr(0, 8));
      disk.format = DiskFormat::Raw;
      continue;
    }
    if (!disk.read_only || disk.format != DiskFormat::Raw) continue;
    const std::uintmax_t size = fs::file_size(disk.path);
    if (size > 0 && size <= kLongestBlob) parts.blobs[disk.id] = read_file(disk.path);
    else if (zone) throw Unsupported("disk \"" + disk.id + "\" is too long to be given to a zone");
  }
  if (machine.boot == BootMode::Direct) {
    parts.boot_disk = handle().work_dir / "boot.raw";
    fs::remove(parts.boot_disk);
    if (machine.kernel.empty()) throw Unsupported("a direct boot needs a kernel");
    make_efi_disk({machine.efi_kernel.empty() ? machine.kernel : machine.efi_kernel, machine.initramfs, machine.command_line},
                  parts.boot_disk, Deadline::after(kDiskTime));
  }
  write_file(plan.body, instance_body(machine, parts), 0600);
}

void PropolisVm::launch(const MachineConfig& machine) {
  if (machine.architecture != Architecture::X86_64)
    throw Unsupported("Propolis runs x86_64 guests, not " + std::string(to_string(machine.architecture)));
  const Settings settings = read_settings();
  const std::vector<LinkPlan> planned = links(machine, settings);
  RunPlan plan = run_plan(handle(), settings, planned, random_hex(kRunDigits));
  plan.startup_script = machine.boot == BootMode::Direct;
  write_body(machine, settings, plan, planned);
  fs::remove(running_file());
  const fs::path plan_file = handle().work_dir / "plan.json";
  write_file(plan_file, to_json(plan), 0600);
  const std::string keeper = find_keeper().string();
  SupervisedProcess process;
  process.argv = {keeper, "run", plan_file.string()};
  process.epilogue = {keeper, "undo", plan.journal.string()};
  process.log_file = "propolis-keeper.log";
  write_file(handle().work_dir / process.log_file, "", 0600);
  spawn(std::move(process), [&] {
    try {
      await_up([&] {
        const VmState now = running_state(Deadline::after(kAnswerTime));
        return now == VmState::Running || now == VmState::Stopped;
      });
    } catch (const Error&) {
      // Who powers off at once has run, whether or not the server could be asked in between.
      const auto exit = wait_exit(kKeeperEndTime);
      if (!exit || !exit->orderly) throw;
    }
  });
}

void PropolisVm::suspend() { throw Unsupported("Propolis' API has no pause"); }
void PropolisVm::resume() { throw Unsupported("Propolis' API has no pause"); }

VmState PropolisVm::running_state(const Deadline& deadline) {
  const RunningServer server = parse_running_server(read_file(running_file()));
  const auto state = ApiClient(server.host, server.port, server.version).find_state(deadline);
  return state ? state_of(*state) : VmState::Starting;
}

VmExit PropolisVm::judge(const SupervisedExit& exit, bool asked) {
  if (asked) return {"Propolis was stopped as asked (" + to_string(exit.status) + ")", exit.last_words, true};
  // The keeper ends so when a signal tells it to, too.
  if (exit.status.ok()) return {"the guest powered off, or somebody ended its keeper by a signal", exit.last_words, true};
  return {"Propolis' keeper ended with " + to_string(exit.status), exit.last_words, false};
}

}  // namespace vmtest::propolis
