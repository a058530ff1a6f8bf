#include "vmtest/noop_driver.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <initializer_list>
#include <mutex>
#include <thread>
#include <utility>

#include "state_rules.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kConsoleLog = "console.log";

void append(const VmHandle& vm, const std::string& text) {
  const FileDescriptor log = open_file(vm.work_dir / kConsoleLog, O_WRONLY | O_APPEND);
  write_all(log.get(), text);
}

}  // namespace

class NoopDriver::World {
 public:
  struct Machine {
    VmHandle handle;
    NoopScript script;
    /// Who prepared it.
    const NoopDriver* owner = nullptr;
    VmState state = VmState::Prepared;
    std::optional<MachineConfig> config = {};
    /// At present.
    unsigned memory_mib = 0;
    std::optional<VmExit> exit = {};
    /// Boots so far.
    unsigned boots = 0;
    /// When the script ends it.
    std::optional<Clock::time_point> ends_at = {};
  };

  /// Guards everything below.
  std::mutex mutex;
  std::condition_variable changed;
  /// By handle id.
  std::map<std::string, Machine> machines;
  std::vector<NoopCall> calls;

  // All with the lock held.

  /// The VM of a handle as it is now; null when it is destroyed.
  Machine* find(const VmHandle& vm) {
    const auto found = machines.find(vm.id);
    if (found == machines.end()) return nullptr;
    Machine& machine = found->second;
    if (machine.ends_at && *machine.ends_at <= Clock::now()) end(machine, machine.script.ending->exit);
    return &machine;
  }
  VmState state(const VmHandle& vm) {
    const Machine* machine = find(vm);
    return machine == nullptr ? VmState::Destroyed : machine->state;
  }
  /// The VM of a handle, to be changed by a call that is allowed in these states.
  Machine& require(const VmHandle& vm, std::initializer_list<VmState> allowed, const char* wanted) {
    require_kind(vm, DriverKind::Noop);
    require_state(vm, state(vm), allowed, wanted);
    return machines.at(vm.id);
  }
  Machine& named(const std::string& name) {
    for (auto& [id, machine] : machines) {
      if (machine.handle.name == name) return *find(machine.handle);
    }
    throw Error("there is no VM \"" + name + "\"");
  }
  /// Removes a VM and its folders; does nothing for one that is not known. Without the lock.
  void forget(const VmHandle& vm) {
    {
      const std::lock_guard lock(mutex);
      if (machines.erase(vm.id) == 0) return;
      changed.notify_all();
    }
    std::error_code ignored;
    fs::remove_all(vm.runtime_dir, ignored);
    fs::remove_all(vm.work_dir, ignored);
  }
  static void boot(Machine& machine) {
    ++machine.boots;
    append(machine.handle, machine.script.console);
  }
  void end(Machine& machine, const VmExit& exit) {
    machine.ends_at.reset();
    machine.exit = exit;
    machine.state = exit.orderly ? VmState::Stopped : VmState::Failed;
    changed.notify_all();
  }
};

namespace {

/// A process that ended as soon as it was started: its answer was ready.
class ScriptedProcess final : public GuestProcess {
 public:
  explicit ScriptedProcess(CommandResult result) : result_(std::move(result)) {}
  void write(std::string_view, std::chrono::milliseconds) override {
    throw Error("the process has ended: " + describe_ending(result_));
  }
  void close_input() override {}
  [[nodiscard]] CommandResult wait(std::chrono::milliseconds) override { return result_; }
  [[nodiscard]] std::optional<CommandResult> poll() override { return result_; }
  void signal(std::string_view) override {}
  [[nodiscard]] std::string stdout_so_far() override { return result_.out; }
  [[nodiscard]] std::string stderr_so_far() override { return result_.err; }

 private:
  CommandResult result_;
};

}  // namespace

/// A guest that is a function. Its files are those that were pushed: kept in a folder of the VM's.
class NoopDriver::ScriptedGuest final : public Guest {
 public:
  ScriptedGuest(std::shared_ptr<World> world, VmHandle vm) : world_(std::move(world)), vm_(std::move(vm)) {}

  [[nodiscard]] CommandResult exec(const GuestCommand& command) override {
    std::function<CommandResult(const GuestCommand&)> answer;
    {
      const std::lock_guard lock(world_->mutex);
      World::Machine& machine = world_->require(vm_, {VmState::Running}, "run a command");
      const std::string& program = command.argv.front();
      if (program == "reboot" || program == "sudo -n reboot") {
        world_->boot(machine);
        return {.exit_code = 0};
      }
      if (program == "cat /proc/sys/kernel/random/boot_id") return {.exit_code = 0, .out = std::to_string(machine.boots) + "\n"};
      answer = machine.script.on_command;
    }
    CommandResult result = answer ? answer(command) : CommandResult{.exit_code = 0};
    if (command.on_stdout) command.on_stdout(result.out);
    if (command.on_stderr) command.on_stderr(result.err);
    return result;
  }
  [[nodiscard]] std::unique_ptr<GuestProcess> spawn(const GuestCommand& command) override {
    return std::make_unique<ScriptedProcess>(exec(command));
  }
  void push(const fs::path& host_path, const std::string& guest_path) override {
    const fs::path target = file(guest_path);
    fs::create_directories(target.parent_path());
    fs::copy(host_path, target, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  }
  void pull(const std::string& guest_path, const fs::path& host_path) override {
    const fs::path source = file(guest_path);
    if (!fs::exists(source)) throw Error("the guest has no " + guest_path);
    fs::copy(source, host_path, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  }
  [[nodiscard]] std::unique_ptr<PortForward> forward(std::uint16_t, const std::string&) override {
    throw Unsupported("nothing listens in a guest of the driver noop");
  }

 private:
  fs::path file(const std::string& guest_path) {
    const std::lock_guard lock(world_->mutex);
    (void)world_->require(vm_, {VmState::Running}, "give or take files");
    const fs::path inside = fs::path(guest_path).lexically_normal().relative_path();
    if (!fs::path(guest_path).is_absolute() || (!inside.empty() && *inside.begin() == ".."))
      throw Error("a path in the guest is absolute, not \"" + guest_path + "\"");
    return vm_.work_dir / "guest" / inside;
  }

  std::shared_ptr<World> world_;
  VmHandle vm_;
};

NoopDriver::NoopDriver(NoopScript script) : NoopDriver(std::move(script), std::make_shared<World>()) {}
NoopDriver::NoopDriver(NoopScript script, std::shared_ptr<World> world) : script_(std::move(script)), world_(std::move(world)) {}

NoopDriver::~NoopDriver() {
  std::vector<VmHandle> left;
  {
    const std::lock_guard lock(world_->mutex);
    for (const auto& [id, machine] : world_->machines) {
      if (machine.owner == this) left.push_back(machine.handle);
    }
  }
  for (const VmHandle& vm : left) world_->forget(vm);
}

Support NoopDriver::support(Capability capability) const {
  switch (capability) {
    case Capability::Boot:
    case Capability::StopGraceful:
    case Capability::Kill:
    case Capability::QueryState:
    case Capability::Delete:
    case Capability::PauseResume:
    case Capability::SerialFile:
    case Capability::ReadinessMarker:
    case Capability::CpuHotplug:
    case Capability::MemoryHotplug:
    case Capability::MemoryBalloon:
    case Capability::Counters:
      return {Support::Kind::Supported, ""};
    default:
      return {Support::Kind::NotOffered, "a VM of the driver noop has states, sizes and a console, and nothing else"};
  }
}

void NoopDriver::begin(const char* call, const VmHandle& vm, std::chrono::milliseconds most) {
  std::chrono::milliseconds delay{0};
  std::string failure;
  {
    const std::lock_guard lock(world_->mutex);
    const World::Machine* machine = world_->find(vm);
    const NoopScript& script = machine == nullptr ? script_ : machine->script;
    world_->calls.push_back({call, vm.name});
    if (const auto found = script.delays.find(call); found != script.delays.end()) delay = found->second;
    if (const auto found = script.failures.find(call); found != script.failures.end()) failure = found->second;
  }
  std::this_thread::sleep_for(std::min(delay, most));
  if (!failure.empty()) throw Error("cannot " + std::string(call) + " VM \"" + vm.name + "\"\n" + failure);
}

VmHandle NoopDriver::prepare(const PrepareRequest& request) {
  require_name(request.name, "VM");
  VmHandle vm;
  vm.id = "noop-" + random_uuid();
  vm.name = request.name;
  vm.driver = DriverKind::Noop;
  vm.work_dir = (request.vms_dir.empty() ? data_dir() / "vms" : fs::absolute(request.vms_dir)) / request.name;
  vm.runtime_dir = runtime_dir() / random_hex(10);
  // No supervisor: who looks for leftovers sees by this process whether it lives.
  vm.supervisor_pid = ::getpid();
  vm.supervisor_start_time = process_start_time(vm.supervisor_pid).value_or(0);
  if (!request.nics.empty())
    vm.mac_address = request.nics.front().mac_address.empty() ? random_mac() : request.nics.front().mac_address;
  begin("prepare", vm);
  fs::create_directories(vm.work_dir.parent_path());
  if (!fs::create_directory(vm.work_dir)) {
    throw Error("cannot prepare VM \"" + vm.name + "\"\na VM of that name exists already in " + vm.work_dir.string());
  }
  fs::permissions(vm.work_dir, fs::perms::owner_all);
  ensure_private_dir(vm.runtime_dir);
  write_file(vm.work_dir / "handle.json", to_json(vm), 0600);
  write_file(vm.work_dir / kConsoleLog, "", 0600);
  const std::lock_guard lock(world_->mutex);
  world_->machines[vm.id] = {.handle = vm, .script = script_, .owner = this};
  return vm;
}

VmHandle NoopDriver::start(const VmHandle& vm, const MachineConfig& machine) {
  begin("start", vm);
  const std::lock_guard lock(world_->mutex);
  World::Machine& target = world_->require(vm, {VmState::Prepared, VmState::Stopped}, "start");
  target.state = VmState::Running;
  target.config = machine;
  target.memory_mib = machine.memory_mib;
  target.exit.reset();
  if (target.script.ending) target.ends_at = Clock::now() + target.script.ending->after;
  world_->boot(target);
  world_->changed.notify_all();
  return vm;
}

VmHandle NoopDriver::stop(const VmHandle& vm, std::chrono::milliseconds timeout) {
  begin("stop", vm, timeout);
  const std::lock_guard lock(world_->mutex);
  World::Machine& target = world_->require(vm, {VmState::Running, VmState::Suspended, VmState::Failed}, "stop");
  world_->end(target, {"the VM was stopped as asked", "", true});
  return vm;
}

VmHandle NoopDriver::suspend(const VmHandle& vm) {
  begin("suspend", vm);
  const std::lock_guard lock(world_->mutex);
  world_->require(vm, {VmState::Running}, "suspend").state = VmState::Suspended;
  return vm;
}

VmHandle NoopDriver::resume(const VmHandle& vm) {
  begin("resume", vm);
  const std::lock_guard lock(world_->mutex);
  world_->require(vm, {VmState::Suspended}, "resume").state = VmState::Running;
  return vm;
}

void NoopDriver::destroy(const VmHandle& vm) {
  begin("destroy", vm);
  require_kind(vm, DriverKind::Noop);
  world_->forget(vm);
}

VmState NoopDriver::state(const VmHandle& vm) {
  require_kind(vm, DriverKind::Noop);
  const std::lock_guard lock(world_->mutex);
  return world_->state(vm);
}

std::string NoopDriver::guest_ip(const VmHandle& vm) {
  require_kind(vm, DriverKind::Noop);
  const std::lock_guard lock(world_->mutex);
  const World::Machine* machine = world_->find(vm);
  if (machine == nullptr || machine->script.ip.empty()) throw Error("the address of VM \"" + vm.name + "\" is not known yet");
  return machine->script.ip;
}

ConsoleEndpoint NoopDriver::console_endpoint(const VmHandle& vm) const {
  return {ConsoleEndpoint::Kind::None, "", vm.work_dir / kConsoleLog};
}

std::optional<VmExit> NoopDriver::wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) {
  require_kind(vm, DriverKind::Noop);
  const auto end = Clock::now() + timeout;
  std::unique_lock lock(world_->mutex);
  for (;;) {
    const World::Machine* machine = world_->find(vm);
    if (machine == nullptr) return VmExit{"the VM was destroyed", "", true};
    if (machine->exit) return machine->exit;
    const auto now = Clock::now();
    if (now >= end) return std::nullopt;
    world_->changed.wait_until(lock, machine->ends_at ? std::min(*machine->ends_at, end) : end);
  }
}

std::vector<NoopCall> NoopDriver::calls() const {
  const std::lock_guard lock(world_->mutex);
  return world_->calls;
}

MachineConfig NoopDriver::machine_of(const std::string& vm) const {
  const std::lock_guard lock(world_->mutex);
  const World::Machine& machine = world_->named(vm);
  if (!machine.config) throw Error("VM \"" + vm + "\" was never started");
  return *machine.config;
}

void NoopDriver::print(const std::string& vm, const std::string& text) {
  const std::lock_guard lock(world_->mutex);
  append(world_->named(vm).handle, text);
}

void NoopDriver::end(const std::string& vm, const VmExit& exit) {
  const std::lock_guard lock(world_->mutex);
  World::Machine& machine = world_->named(vm);
  (void)world_->require(machine.handle, {VmState::Running, VmState::Suspended}, "end");
  world_->end(machine, exit);
}

void NoopDriver::resize_vcpus(const VmHandle& vm, unsigned vcpus, const Deadline&) {
  begin("resize_vcpus", vm);
  const std::lock_guard lock(world_->mutex);
  MachineConfig& config = *world_->require(vm, {VmState::Running}, "be resized").config;
  const unsigned most = std::max(config.vcpus, config.max_vcpus);
  if (vcpus == 0 || vcpus > most) {
    throw Error("cannot give VM \"" + vm.name + "\" " + std::to_string(vcpus) + " vCPUs: it was started with room for 1 to " +
                std::to_string(most) + " (MachineConfig::max_vcpus)");
  }
  // What it had is room from now on.
  config.max_vcpus = most;
  config.vcpus = vcpus;
}

void NoopDriver::resize_memory(const VmHandle& vm, unsigned memory_mib, const Deadline&) {
  begin("resize_memory", vm);
  const std::lock_guard lock(world_->mutex);
  World::Machine& machine = world_->require(vm, {VmState::Running}, "be resized");
  const unsigned least = machine.config->memory_balloon ? 1 : machine.config->memory_mib;
  const unsigned most = std::max(machine.config->memory_mib, machine.config->max_memory_mib);
  if (memory_mib < least || memory_mib > most) {
    throw Error("cannot give VM \"" + vm.name + "\" " + std::to_string(memory_mib) +
                " MiB of memory: it was started with room for " + std::to_string(least) + " to " + std::to_string(most) +
                " (MachineConfig::max_memory_mib, and memory_balloon for less)");
  }
  machine.memory_mib = memory_mib;
}

void NoopDriver::resize_disk(const VmHandle& vm, const std::string& disk, std::uint64_t, const Deadline&) {
  begin("resize_disk", vm);
  throw Unsupported("cannot resize disk \"" + disk + "\" of VM \"" + vm.name + "\": a VM of the driver noop has no disks");
}

MachineSize NoopDriver::size(const VmHandle& vm, const Deadline&) {
  const std::lock_guard lock(world_->mutex);
  const World::Machine& machine = world_->require(vm, {VmState::Running}, "tell its size");
  return {machine.config->vcpus, machine.memory_mib};
}

std::vector<Counter> NoopDriver::counters(const VmHandle& vm, const Deadline&) {
  const std::lock_guard lock(world_->mutex);
  return world_->require(vm, {VmState::Running, VmState::Suspended}, "tell what it counts").script.counters;
}

void NoopDriver::inject_nmi(const VmHandle& vm, const Deadline&) {
  begin("inject_nmi", vm);
  const std::lock_guard lock(world_->mutex);
  (void)world_->require(vm, {VmState::Running}, "be interrupted");
}

void NoopDriver::dump_memory(const VmHandle& vm, const fs::path& file, const Deadline&) {
  begin("dump_memory", vm);
  const std::lock_guard lock(world_->mutex);
  (void)world_->require(vm, {VmState::Running, VmState::Suspended}, "be dumped");
  with_context("cannot dump the memory of VM \"" + vm.name + "\"",
               [&] { (void)open_file(file, O_WRONLY | O_CREAT | O_EXCL, 0600); });
}

std::unique_ptr<Guest> NoopDriver::connect_guest(const VmHandle& vm) {
  {
    const std::lock_guard lock(world_->mutex);
    (void)world_->require(vm, {VmState::Running}, "be entered");
  }
  return std::make_unique<ScriptedGuest>(world_, vm);
}

}  // namespace vmtest
