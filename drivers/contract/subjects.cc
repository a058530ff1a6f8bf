#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <utility>

#include "halting_kernel.h"
#include "subject.h"
#include "vmtest/cloud_hypervisor_driver.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"
#include "vmtest/noop_driver.h"
#include "vmtest/propolis_driver.h"
#include "vmtest/qemu_driver.h"
#include "vmtest/router_driver.h"
#include "vmtest/supervisor.h"
#include "vmtest/types.h"
#include "vmtest/vz_driver.h"

namespace vmtest::contract {
namespace {

namespace fs = std::filesystem;

std::vector<pid_t> supervised_processes(const VmHandle& vm) {
  std::vector<pid_t> pids = {vm.supervisor_pid};
  for (const auto& [name, pid] : SupervisorConnection::connect(vm.supervisor_socket())->status().processes) pids.push_back(pid);
  return pids;
}

/// Has the machine's guest say a word on its serial port, and repeat what it hears there.
void let_it_talk(Subject& subject) {
  if (host_architecture() != Architecture::X86_64) return;  // the guest is machine code for that
  subject.printing = subject.machine;
  subject.printing.kernel = testing::echoing_kernel();
  subject.greeting = testing::kEchoingKernelsGreeting;
  subject.echoes = true;
}

/// QEMU without a guest: it sits in its firmware.
Subject qemu() {
  Subject subject;
  subject.name = "Qemu";
  subject.make = [] { return std::make_unique<QemuDriver>(); };
  subject.machine.architecture = host_architecture();
  subject.machine.memory_mib = 32;
  let_it_talk(subject);
  subject.bad_machine = subject.machine;
  subject.bad_machine.disks = {{.path = "/nonexistent/gone.qcow2", .id = "root"}};
  subject.refusal = "gone.qcow2";
  subject.crash = [](Driver&, const VmHandle& vm) {
    ::kill(SupervisorConnection::connect(vm.supervisor_socket())->status().processes.at("qemu"), SIGKILL);
  };
  subject.processes = supervised_processes;
  return subject;
}

/// What an environment variable says.
std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// Cloud Hypervisor, or what stands in for it where VMTEST_CLOUD_HYPERVISOR names none, with a kernel that halts.
Subject cloud_hypervisor(CloudHypervisorDriver::Mode mode) {
  if (!fs::path(VMTEST_SIMULATED_CLOUD_HYPERVISOR).empty())
    ::setenv("VMTEST_CLOUD_HYPERVISOR", VMTEST_SIMULATED_CLOUD_HYPERVISOR, 0);
  Subject subject;
  subject.name = mode == CloudHypervisorDriver::Mode::Api ? "CloudHypervisor" : "CloudHypervisorCli";
  subject.make = [mode] { return std::make_unique<CloudHypervisorDriver>(mode); };
  subject.machine.architecture = host_architecture();
  subject.machine.memory_mib = 64;
  subject.machine.kernel = testing::halting_kernel();
  subject.nic = NicKind::Tap;
  let_it_talk(subject);
  subject.bad_machine = subject.machine;
  subject.bad_machine.disks = {{.path = "/nonexistent/gone.qcow2", .id = "root"}};
  subject.refusal = "No such file or directory";
  subject.foreign_refusal = "Cloud Hypervisor runs guests of the host's architecture, ";
  subject.may_lack_dumps = variable("VMTEST_CLOUD_HYPERVISOR") != VMTEST_SIMULATED_CLOUD_HYPERVISOR;
  subject.crash = [](Driver&, const VmHandle& vm) {
    ::kill(SupervisorConnection::connect(vm.supervisor_socket())->status().processes.at("cloud-hypervisor"), SIGKILL);
  };
  subject.processes = supervised_processes;
  return subject;
}

/// Virtualization.framework, or what stands in for it where VMTEST_VZ_HELPER names no helper, with a kernel that halts.
Subject vz() {
  if (!fs::path(VMTEST_SIMULATED_VZ_HELPER).empty()) ::setenv("VMTEST_VZ_HELPER", VMTEST_SIMULATED_VZ_HELPER, 0);
  Subject subject;
  subject.name = "Vz";
  subject.make = [] { return std::make_unique<VzDriver>(); };
  subject.machine.architecture = host_architecture();
  subject.machine.memory_mib = 64;
  subject.machine.kernel = testing::halting_kernel();
  subject.has_ssh_port = false;
  subject.bad_machine = subject.machine;
  subject.bad_machine.disks = {{.path = "/nonexistent/gone.raw", .format = DiskFormat::Raw, .id = "root"}};
  subject.refusal = "gone.raw";
  subject.foreign_refusal = "Virtualization.framework runs guests of the host's architecture, ";
  subject.lets_go = true;
  subject.crash = [](Driver&, const VmHandle& vm) {
    ::kill(SupervisorConnection::connect(vm.supervisor_socket())->status().processes.at("vmtest-vz-helper"), SIGKILL);
  };
  subject.processes = supervised_processes;
  return subject;
}

/// The children of a process, theirs, and so on.
std::vector<pid_t> descendants(pid_t pid) {
  const std::string number = std::to_string(pid);
  std::istringstream children(read_file("/proc/" + number + "/task/" + number + "/children"));
  std::vector<pid_t> all;
  for (pid_t child = 0; children >> child;) {
    all.push_back(child);
    for (const pid_t further : descendants(child)) all.push_back(further);
  }
  return all;
}

/// Propolis, or what stands in for it where VMTEST_PROPOLIS says nothing, without a guest: it sits in its firmware. What crashes
/// is the server.
Subject propolis() {
  if (!fs::path(VMTEST_SIMULATED_PROPOLIS).empty()) ::setenv("VMTEST_PROPOLIS", VMTEST_SIMULATED_PROPOLIS, 0);
  Subject subject;
  subject.name = "Propolis";
  subject.make = [] { return std::make_unique<PropolisDriver>(); };
  subject.machine.memory_mib = 64;
  subject.machine.boot = BootMode::Uefi;
  subject.printing = subject.machine;
  subject.greeting = "\033[2J";  // what EDK II begins with is an empty screen
  subject.nic = NicKind::Tap;
  subject.bad_machine = subject.machine;
  subject.bad_machine.disks = {{.path = "/nonexistent/gone.raw", .format = DiskFormat::Raw, .id = "root"}};
  subject.refusal = "gone.raw";
  subject.foreign_refusal = "Propolis runs x86_64 guests, ";
  const auto keeper = [](const VmHandle& vm) {
    return SupervisorConnection::connect(vm.supervisor_socket())->status().processes.at("propolis-keeper");
  };
  subject.crash = [keeper](Driver&, const VmHandle& vm) { ::kill(descendants(keeper(vm)).at(0), SIGKILL); };
  const std::string wish = variable("VMTEST_PROPOLIS");
  if (wish.rfind("http://", 0) == 0 || wish.rfind("zone:", 0) == 0) {
    subject.refusal.clear();
    subject.cannot_crash = "the server of VMTEST_PROPOLIS=" + wish + " is no process of the VM's";
    subject.one_at_a_time = "there is one server, VMTEST_PROPOLIS=" + wish;
  }
  subject.processes = [](const VmHandle& vm) {
    std::vector<pid_t> all = {vm.supervisor_pid};
    for (const pid_t pid : descendants(vm.supervisor_pid)) all.push_back(pid);
    return all;
  };
  return subject;
}

Subject noop() {
  Subject subject;
  subject.name = "Noop";
  const auto world = NoopDriver().world();
  subject.make = [world] { return std::make_unique<NoopDriver>(NoopScript{}, world); };
  subject.crash = [world](Driver&, const VmHandle& vm) { NoopDriver(NoopScript{}, world).end(vm.name, {"crashed", "", false}); };
  subject.greeting = NoopScript().console;
  subject.has_ssh_port = false;
  subject.address = NoopScript().ip;
  subject.only_in_process = "VMs of the driver noop are in the memory of their process";
  return subject;
}

/// The same VMs by a router that has that driver behind another one.
Subject routed(const Subject& inner) {
  Subject subject = inner;
  subject.name = "RouterTo" + inner.name;
  const auto make = inner.make;
  subject.make = [make] {
    std::vector<std::unique_ptr<Driver>> drivers;
    std::unique_ptr<Driver> wanted = make();
    const DriverKind kind = wanted->kind();
    if (kind != DriverKind::Noop) drivers.push_back(std::make_unique<NoopDriver>());
    drivers.push_back(std::move(wanted));
    return std::make_unique<RouterDriver>(std::move(drivers), kind);
  };
  return subject;
}

}  // namespace

const std::vector<Subject>& subjects() {
  static const std::vector<Subject> all = {qemu(),
                                           noop(),
                                           cloud_hypervisor(CloudHypervisorDriver::Mode::Api),
                                           cloud_hypervisor(CloudHypervisorDriver::Mode::CommandLine),
                                           propolis(),
                                           vz(),
                                           routed(qemu()),
                                           routed(noop())};
  return all;
}

}  // namespace vmtest::contract
