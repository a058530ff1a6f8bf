// What is QEMU's own about its driver, beside what drivers/contract tries on all: with a real QEMU and no guest, which sits in
// its firmware without a disk.

#include "vmtest/qemu_driver.h"

#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <thread>

#include "accelerator.h"
#include "failure.h"
#include "kvm_probe.h"
#include "qemu_command_line.h"
#include "qemu_driver_fixture.h"
#include "qemu_migration.h"
#include "qmp_client.h"
#include "variable.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
#include "vmtest/supervisor.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::failure_of;
using testing::wait_until;

TEST_F(QemuDriverTest, ForwardsItsPort) {
  const VmHandle& vm = start();
  EXPECT_FALSE(port_is_free(vm.ssh_port));
  EXPECT_EQ(driver_.guest_ip(vm), "127.0.0.1");
}

TEST_F(QemuDriverTest, ConsoleHasSocketAndLog) {
  const VmHandle& vm = start();
  const ConsoleEndpoint console = driver_.console_endpoint(vm);
  EXPECT_EQ(console.kind, ConsoleEndpoint::Kind::UnixSocket);
  EXPECT_TRUE(connect_unix(console.address));
  EXPECT_TRUE(fs::exists(console.log));
}

TEST_F(QemuDriverTest, StepsOfItsStartAreTold) {
  const VmHandle& vm = prepare();
  EXPECT_TRUE(driver_.start_steps(vm).empty());
  for (int i = 0; i < 2; ++i) {
    const auto before = std::chrono::steady_clock::now();
    vm_ = driver_.start(*vm_, machine());
    const std::vector<Step> steps = driver_.start_steps(vm);
    ASSERT_EQ(steps.size(), 2U);
    EXPECT_EQ(steps[0].what, "process");
    EXPECT_EQ(steps[1].what, "monitor");
    EXPECT_GT(steps[0].at, before);
    EXPECT_GT(steps[1].at, steps[0].at);
    vm_ = driver_.stop(*vm_, milliseconds(0));
  }
}

TEST_F(QemuDriverTest, SecondMonitorServesOthers) {
  const VmHandle& vm = start();
  const auto other = QmpClient::connect(vm.runtime_dir / "qmp-cli.sock", Deadline::after(seconds(20)));
  EXPECT_EQ(other->execute("query-status", Deadline::after(seconds(20))).at("status"), "running");
}

TEST_F(QemuDriverTest, MonitorDeliversEventsAndTakesDescriptors) {
  const VmHandle& vm = start();
  const Deadline deadline = Deadline::after(seconds(20));
  const auto monitor = QmpClient::connect(vm.runtime_dir / "qmp-cli.sock", deadline);
  (void)driver_.suspend(vm);
  EXPECT_TRUE(monitor->wait_event("STOP", deadline));
  const Pipe pipe = make_pipe();
  monitor->pass_descriptor("pipe", pipe.write_end.get(), deadline);
  EXPECT_NO_THROW(monitor->execute("closefd", {{"fdname", "pipe"}}, deadline));
  EXPECT_THROW(monitor->execute("closefd", {{"fdname", "pipe"}}, deadline), QmpError);
}

TEST_F(QemuDriverTest, CheckpointThatCannotBeWrittenLeavesTheGuestRunning) {
  const VmHandle& vm = start();
  const std::string why =
      failure_of([&] { (void)driver_.templates()->checkpoint(vm, folder_.path() / "no-such-folder/state", {}, soon()); });
  EXPECT_NE(why.find("no-such-folder"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(vm), VmState::Running);
  (void)driver_.templates()->checkpoint(vm, folder_.path() / "state", {}, soon());
  EXPECT_EQ(driver_.state(vm), VmState::Running);
}

TEST_F(QemuDriverTest, MigrationThatIsCalledOffHaltsNothingLater) {
  const VmHandle& vm = start();
  const auto qemu = QmpClient::connect(vm.runtime_dir / "qmp-cli.sock", soon());
  // Whose other end nobody reads.
  const auto [ours, theirs] = make_socket_pair();
  qemu->pass_descriptor("state", theirs.get(), soon());
  prepare_to_send(*qemu, SharedMemory::Sent, soon());
  qemu->execute("migrate", {{"uri", "fd:state"}}, soon());
  const std::string status = qemu->execute("query-migrate", soon()).at("status");
  ASSERT_TRUE(status == "setup" || status == "active") << status;
  call_off(*qemu, soon());
  EXPECT_EQ(qemu->execute("query-migrate", soon()).at("status"), "cancelled");
  EXPECT_EQ(driver_.state(vm), VmState::Running);
  (void)driver_.templates()->checkpoint(vm, folder_.path() / "state", {}, soon());
  EXPECT_EQ(driver_.state(vm), VmState::Running);
}

TEST_F(QemuDriverTest, FingerprintChangesWithWhatTheGuestDependsOn) {
  TemplateFacet& templates = *driver_.templates();
  // A QEMU of our own, with ROMs beside it.
  const fs::path bin = folder_.path() / "usr/bin";
  const fs::path rom = folder_.path() / "usr/share/qemu/rom.bin";
  fs::create_directories(bin);
  fs::create_directories(rom.parent_path());
  const std::string program = qemu_program(host_architecture());
  write_file(bin / program, "a QEMU", 0700);
  write_file(rom, "a ROM");
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", (bin.string() + ":" + path).c_str(), 1);
  MachineConfig machine = this->machine();
  machine.boot = BootMode::Uefi;
  machine.kernel = folder_.path() / "kernel";
  machine.initramfs = folder_.path() / "initramfs";
  machine.uefi = UefiFirmware{folder_.path() / "code.fd", folder_.path() / "variables.fd"};
  const std::vector<fs::path> files = {machine.kernel, machine.initramfs, machine.uefi->code, machine.uefi->variables, rom,
                                       bin / program};
  for (std::size_t i = 0; i + 2 < files.size(); ++i) write_file(files[i], "before");
  std::string before = templates.fingerprint(machine);
  EXPECT_EQ(templates.fingerprint(machine), before);
  for (const fs::path& file : files) {
    write_file(file, "after it was upgraded", 0700);
    const std::string after = templates.fingerprint(machine);
    EXPECT_NE(after, before) << file;
    before = after;
  }
  const std::vector<std::function<void(MachineConfig&)>> changes = {
      [](MachineConfig& other) { other.memory_mib *= 2; },         [](MachineConfig& other) { ++other.vcpus; },
      [](MachineConfig& other) { other.cpu_model = "qemu64"; },    [](MachineConfig& other) { other.memory_balloon = true; },
      [](MachineConfig& other) { other.boot = BootMode::Direct; }, [](MachineConfig& other) { other.smbios_serial = "1"; }};
  for (const auto& change : changes) {
    MachineConfig other = machine;
    change(other);
    EXPECT_NE(templates.fingerprint(other), before);
  }
  // Names and places of this VM are not what the guest depends on.
  MachineConfig same = machine;
  same.nics.front().mac_address = "52:54:00:00:00:01";
  EXPECT_EQ(templates.fingerprint(same), before);
  ::setenv("PATH", path.c_str(), 1);
}

TEST_F(QemuDriverTest, MigratedVmHasItsPlacesAndPortAgain) {
  const VmHandle& vm = start();
  const pid_t first = qemu_pid();
  const MigrationReport report = driver_.migration()->migrate(vm, machine(), soon());
  EXPECT_GT(report.memory_bytes.value(), 0U);
  EXPECT_LE(report.downtime.value(), report.total);
  const pid_t second = qemu_pid();
  EXPECT_NE(first, second);
  EXPECT_FALSE(process_start_time(first)) << "two QEMUs have the VM's disks";
  EXPECT_FALSE(port_is_free(vm.ssh_port));
  for (const char* socket : {"qmp.sock", "qmp-cli.sock", "console.sock"}) EXPECT_TRUE(connect_unix(vm.runtime_dir / socket));
  std::size_t folders = 0;
  for (const auto& entry : fs::directory_iterator(vm.runtime_dir)) folders += entry.is_directory() ? 1 : 0;
  EXPECT_EQ(folders, 0U);
  EXPECT_NE(read_file(vm.work_dir / "command_line.txt").find("-incoming"), std::string::npos);
}

TEST_F(QemuDriverTest, GuestThatCannotArriveGoesOnWhereItWas) {
  const VmHandle& vm = start();
  const pid_t qemu = qemu_pid();
  MachineConfig other = machine();
  other.memory_mib *= 2;
  const std::string why = failure_of([&] { (void)driver_.migration()->migrate(vm, other, soon()); });
  EXPECT_NE(why.find("cannot migrate VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("ram0"), std::string::npos) << "the second QEMU's own words: " << why;
  const auto monitor = QmpClient::connect(vm.runtime_dir / "qmp-cli.sock", soon());
  EXPECT_EQ(monitor->execute("query-status", soon()).at("status"), "running");
  EXPECT_EQ(SupervisorConnection::connect(vm.supervisor_socket())->status().processes,
            (std::map<std::string, pid_t>{{"qemu", qemu}}));
  EXPECT_EQ(driver_.state(vm), VmState::Running);
  (void)driver_.migration()->migrate(vm, machine(), soon());
  EXPECT_NE(qemu_pid(), qemu);
}

TEST_F(QemuDriverTest, MigrationThatHasNoTimeLeavesTheVmAsItIs) {
  const VmHandle& vm = start();
  const pid_t qemu = qemu_pid();
  EXPECT_THROW((void)driver_.migration()->migrate(vm, machine(), Deadline::after(milliseconds(0))), Timeout);
  EXPECT_EQ(driver_.state(vm), VmState::Running);
  EXPECT_EQ(SupervisorConnection::connect(vm.supervisor_socket())->status().processes,
            (std::map<std::string, pid_t>{{"qemu", qemu}}));
}

TEST_F(QemuDriverTest, MachinesThatCannotMoveAreRefused) {
  const VmHandle& vm = start();
  const std::vector<std::function<void(MachineConfig&)>> changes = {
      [&](MachineConfig& other) {
        other.memory_file = MemoryFile{folder_.path() / "memory", MemoryFile::Mapping::Shared};
      },
      [](MachineConfig& other) { other.vnc = true; }, [](MachineConfig& other) { other.tpm = true; },
      [&](MachineConfig& other) {
        other.shared_folders = {{folder_.path(), "tag"}};
      }};
  for (const auto& change : changes) {
    MachineConfig other = machine();
    change(other);
    EXPECT_THROW((void)driver_.migration()->migrate(vm, other, soon()), Unsupported);
  }
  EXPECT_EQ(driver_.state(vm), VmState::Running);
}

TEST_F(QemuDriverTest, LargeRepliesOfTheMonitorArriveWhole) {
  const VmHandle& vm = start();
  const Deadline deadline = Deadline::after(seconds(20));
  const auto monitor = QmpClient::connect(vm.runtime_dir / "qmp-cli.sock", deadline);
  EXPECT_GT(monitor->execute("query-qmp-schema", deadline).size(), 500U);
}

TEST_F(QemuDriverTest, DisplayIsOnAUnixSocket) {
  const VmHandle& vm = prepare();
  MachineConfig config = machine();
  config.vnc = true;
  (void)driver_.start(vm, config);
  EXPECT_TRUE(connect_unix(vm.runtime_dir / "vnc.sock"));
}

TEST_F(QemuDriverTest, RecordsItsCommandLine) {
  const VmHandle& vm = start();
  EXPECT_NE(read_file(vm.work_dir / "command_line.txt").find("-nodefaults"), std::string::npos);
}

TEST_F(QemuDriverTest, StopOfAGuestThatDoesNotListenKeepsItsTime) {
  const VmHandle& vm = start();
  const auto begin = std::chrono::steady_clock::now();
  (void)driver_.stop(vm, milliseconds(500));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(1500));
  EXPECT_EQ(driver_.state(vm), VmState::Stopped);
  expect_forced_by("SIGTERM");
}

TEST_F(QemuDriverTest, StopOfAHungQemuKeepsItsTime) {
  const VmHandle& vm = start();
  ASSERT_EQ(::kill(qemu_pid(), SIGSTOP), 0);
  const auto begin = std::chrono::steady_clock::now();
  (void)driver_.stop(vm, milliseconds(500));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(1500));
  EXPECT_EQ(driver_.state(vm), VmState::Stopped);
  expect_forced_by("SIGKILL");
}

TEST_F(QemuDriverTest, CrashIsReportedAtOnce) {
  const VmHandle& vm = start();
  ASSERT_EQ(::kill(qemu_pid(), SIGKILL), 0);
  const auto exit = driver_.wait_exit(vm, seconds(20));
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_NE(exit->how.find("signal 9"), std::string::npos) << exit->how;
  EXPECT_EQ(driver_.state(vm), VmState::Failed);
}

TEST_F(QemuDriverTest, SignalFromOutsideIsNoOrderlyEnd) {
  const VmHandle& vm = start();
  ASSERT_EQ(::kill(qemu_pid(), SIGTERM), 0);
  const auto exit = driver_.wait_exit(vm, seconds(20));
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_NE(exit->how.find("from outside"), std::string::npos) << exit->how;
}

TEST_F(QemuDriverTest, QuitByTheMonitorIsAnOrderlyEnd) {
  const VmHandle& vm = start();
  const auto other = QmpClient::connect(vm.runtime_dir / "qmp-cli.sock", Deadline::after(seconds(20)));
  other->execute("quit", Deadline::after(seconds(20)));
  const auto exit = driver_.wait_exit(vm, seconds(20));
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->orderly);
  EXPECT_EQ(driver_.state(vm), VmState::Stopped);
}

TEST_F(QemuDriverTest, BadArgumentShowsQemusOwnWords) {
  const VmHandle& vm = prepare();
  MachineConfig config = machine();
  config.extra_arguments = {"-device", "no-such-device"};
  const std::string why = failure_of([&] { (void)driver_.start(vm, config); });
  EXPECT_NE(why.find("no-such-device"), std::string::npos) << why;
  EXPECT_NE(why.find("exit code 1"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(vm), VmState::Failed);
}

TEST_F(QemuDriverTest, MissingDiskShowsQemusOwnWords) {
  const VmHandle& vm = prepare();
  MachineConfig config = machine();
  config.disks = {{.path = folder_.path() / "gone.qcow2", .id = "root"}};
  const std::string why = failure_of([&] { (void)driver_.start(vm, config); });
  EXPECT_NE(why.find("gone.qcow2"), std::string::npos) << why;
}

TEST_F(QemuDriverTest, MissingQemuNamesThePackage) {
  const VmHandle& vm = prepare();
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nonexistent", 1);
  const auto why_not = driver_.unavailable_reason();
  const std::string why = failure_of([&] { (void)driver_.start(vm, machine()); });
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_NE(why.find("apt-get install qemu-system"), std::string::npos) << why;
  ASSERT_TRUE(why_not);
  EXPECT_NE(why_not->find("apt-get install qemu-system"), std::string::npos);
  EXPECT_EQ(driver_.state(vm), VmState::Prepared);
}

TEST_F(QemuDriverTest, ForeignGuestWithoutItsQemuNamesThatPackage) {
  const VmHandle& vm = prepare();
  MachineConfig foreign = machine();
  foreign.architecture = host_architecture() == Architecture::X86_64 ? Architecture::Aarch64 : Architecture::X86_64;
  std::string why;
  {
    const testing::Variable path("PATH", "/nonexistent");
    why = failure_of([&] { (void)driver_.start(vm, foreign); });
  }
  EXPECT_NE(why.find(qemu_program(foreign.architecture) + " is not in PATH"), std::string::npos) << why;
  EXPECT_NE(why.find("apt-get install " + qemu_package(foreign.architecture)), std::string::npos) << why;
  EXPECT_EQ(driver_.state(vm), VmState::Prepared);
  (void)driver_.start(vm, machine());
  EXPECT_EQ(driver_.state(vm), VmState::Running);
}

TEST_F(QemuDriverTest, FixedPortThatIsTakenIsAnError) {
  const VmHandle& vm = prepare();
  PrepareRequest second = request("second");
  second.ssh_port = vm.ssh_port;
  const std::string why = failure_of([&] { (void)driver_.prepare(second); });
  EXPECT_NE(why.find("port " + std::to_string(vm.ssh_port)), std::string::npos) << why;
  EXPECT_FALSE(fs::exists(folder_.path() / "vms" / "second"));
}

TEST_F(QemuDriverTest, DeadSupervisorIsAFailureThatDestroyCleansUp) {
  const VmHandle vm = start();
  const pid_t qemu = qemu_pid();
  ASSERT_EQ(::kill(vm.supervisor_pid, SIGKILL), 0);
  EXPECT_TRUE(wait_until([&] { return driver_.state(vm) == VmState::Failed; }, soon()));
  EXPECT_TRUE(wait_until([&] { return !process_start_time(qemu); }, soon()));
  driver_.destroy(vm);
  EXPECT_FALSE(fs::exists(vm.work_dir));
  EXPECT_FALSE(fs::exists(vm.runtime_dir));
}

TEST_F(QemuDriverTest, TapVanishesWithTheVm) {
  if (::geteuid() != 0 || ::unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "a network namespace needs root";
  const Support tap = driver_.support(Capability::Tap);
  if (!tap.supported()) GTEST_SKIP() << tap.why;
  PrepareRequest with_tap = request();
  with_tap.nics = {{.kind = NicKind::Tap, .mac_address = "52:54:00:12:34:56"}};
  const VmHandle& vm = vm_.emplace(driver_.prepare(with_tap));
  EXPECT_EQ(vm.ssh_port, 0);
  EXPECT_EQ(vm.static_address, driver_.guest_ip(vm) + "/30");
  EXPECT_NE(::if_nametoindex("vmtest0"), 0U);
  MachineConfig config = machine();
  config.nics = with_tap.nics;
  (void)driver_.start(vm, config);
  (void)driver_.stop(vm, milliseconds(0));
  (void)driver_.start(vm, config);
  EXPECT_EQ(driver_.state(vm), VmState::Running);
  driver_.destroy(vm);
  EXPECT_EQ(::if_nametoindex("vmtest0"), 0U);
}

TEST_F(QemuDriverTest, TakesQcow2AndRawAndOverlays) {
  const DiskNeeds needs = driver_.disk_needs();
  EXPECT_EQ(needs.formats, (std::vector<DiskFormat>{DiskFormat::Qcow2, DiskFormat::Raw}));
  EXPECT_TRUE(needs.backing_files);
}

TEST_F(QemuDriverTest, ProbeOfKvmRunsToItsEndUnderEmulation) {
  if (kvm_probe_image().empty()) GTEST_SKIP() << "this architecture has no probe";
  const fs::path image = folder_.path() / "probe";
  write_file(image, kvm_probe_image(), 0600);
  const auto program = find_program(qemu_program(host_architecture()));
  ASSERT_TRUE(program);
  const ToolResult result = exec_tool(probe_command(*program, image, Accelerator::Tcg), soon());
  EXPECT_EQ(judge_probe(result.status, result.out, result.err), std::nullopt);
}

}  // namespace
}  // namespace vmtest
