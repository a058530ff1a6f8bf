// What is Propolis' own about its driver, beside what drivers/contract tries on all: with what stands in for its server where
// VMTEST_PROPOLIS says nothing, and firmware as the guest.

#include "vmtest/propolis_driver.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <sstream>
#include <vector>

#include "failure.h"
#include "propolis_driver_fixture.h"
#include "variable.h"
#include "vm.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
#include "vmtest/supervisor.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::failure_of;
using testing::Variable;
using testing::wait_until;

TEST_F(PropolisDriverTest, MissingDiskIsNamed) {
  MachineConfig with = machine();
  with.disks = {{.path = "/nonexistent/seed.iso", .format = DiskFormat::Raw, .read_only = true, .id = "seed"}};
  EXPECT_SAYS(failure_to_start(with), "/nonexistent/seed.iso");
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
}

TEST_F(PropolisDriverTest, KernelThatFirmwareCannotRunIsUnsupported) {
  MachineConfig with = machine();
  with.boot = BootMode::Direct;
  with.kernel = folder_.path() / "vmlinux";
  write_file(with.kernel, "\177ELF");
  EXPECT_THROW((void)driver_.start(prepare(), with), Unsupported);
}

TEST_F(PropolisDriverTest, ForeignArchitectureIsUnsupported) {
  MachineConfig foreign = machine();
  foreign.architecture = Architecture::Aarch64;
  EXPECT_THROW((void)driver_.start(prepare(), foreign), Unsupported);
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
}

TEST_F(PropolisDriverTest, NetworkItDoesNotHaveIsRefusedAndNothingIsLeft) {
  PrepareRequest user = request();
  user.nics.front().kind = NicKind::User;
  EXPECT_THROW((void)driver_.prepare(user), Unsupported);
  PrepareRequest port = request();
  port.ssh_port = 10022;
  EXPECT_THROW((void)driver_.prepare(port), Unsupported);
  EXPECT_FALSE(fs::exists(folder_.path() / "vms"));
}

TEST_F(PropolisDriverTest, KilledKeeperTakesItsServerAndTheHostsSideAlong) {
  if (!cannot_end_server().empty()) GTEST_SKIP() << cannot_end_server();
  (void)driver_.start(prepare(), machine());
  EXPECT_TRUE(has_interface());
  const pid_t server = child_of(keeper());
  ::kill(keeper(), SIGKILL);
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_TRUE(wait_until([&] { return !process_start_time(server); }, soon()));
  EXPECT_FALSE(has_interface());
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisDriverTest, WhatNobodyCouldTakeBackIsFoundAndTakenBack) {
  if (!cannot_end_server().empty()) GTEST_SKIP() << cannot_end_server();
  const Variable home("VMTEST_HOME", (folder_.path() / "home").string());
  (void)driver_.start(prepare(), machine());
  EXPECT_EQ(PropolisDriver::leftovers(), std::vector<fs::path>{}) << "a living run's steps are its own";
  const pid_t keeper_pid = keeper();
  const pid_t server = child_of(keeper_pid);
  ::kill(keeper_pid, SIGSTOP);  // it would take back the first steps when it sees the supervisor's end
  ::kill(SupervisorConnection::connect(vm_->supervisor_socket())->status().pid, SIGKILL);
  ::kill(keeper_pid, SIGKILL);
  EXPECT_TRUE(wait_until([&] { return !process_start_time(keeper_pid) && !process_start_time(server); }, soon()));
  EXPECT_TRUE(has_interface());
  // The last of its threads lets go of the run's lock.
  std::vector<fs::path> left;
  ASSERT_TRUE(wait_until([&] { return (left = PropolisDriver::leftovers()).size() == 1; }, soon()));
  PropolisDriver::take_back(left[0]);
  EXPECT_FALSE(has_interface());
  EXPECT_EQ(PropolisDriver::leftovers(), std::vector<fs::path>{});
}

TEST_F(PropolisDriverTest, WhatCannotBeTakenBackIsToldAtTheVmsEnd) {
  const Variable home("VMTEST_HOME", (folder_.path() / "home").string());
  {
    const fs::path tools = folder_.path() / "tools";
    fs::create_directory(tools);
    const std::string real = find_program("ip").value().string();
    write_file(tools / "ip", "#!/bin/sh\n[ \"$2\" != delete ] || { echo it is held >&2; exit 2; }\nexec " + real + " \"$@\"\n",
               0700);
    const Variable path("PATH", tools.string() + ":" + std::getenv("PATH"));
    (void)driver_.start(prepare(), machine());
    const std::string why = failure_of([&] { driver_.destroy(*vm_); });
    EXPECT_SAYS(
        why, "VM \"probe\" is destroyed, but what it did to the host could not all be taken back: cannot undo \"ip tuntap add");
    EXPECT_SAYS(why, "it is held");
    EXPECT_SAYS(why, "\"vmtest gc\"");
  }
  EXPECT_EQ(driver_.state(*vm_), VmState::Destroyed);
  EXPECT_TRUE(has_interface());
  const std::vector<fs::path> left = PropolisDriver::leftovers();
  ASSERT_EQ(left.size(), 1U);
  PropolisDriver::take_back(left[0]);
  EXPECT_FALSE(has_interface());
}

TEST_F(PropolisDriverTest, KilledServerIsToldWithItsEnd) {
  if (!cannot_end_server().empty()) GTEST_SKIP() << cannot_end_server();
  (void)driver_.start(prepare(), machine());
  ::kill(child_of(keeper()), SIGKILL);
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_SAYS(exit->last_words, "propolis-server ended with signal 9");
}

TEST_F(PropolisDriverTest, FailedInstanceIsTold) {
  if (named_ != VMTEST_SIMULATED_PROPOLIS) GTEST_SKIP() << "the guest of " << named_ << " is no process that could be killed";
  (void)driver_.start(prepare(), machine());
  const pid_t server = child_of(keeper());
  ::kill(child_of(server), SIGKILL);
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_SAYS(exit->last_words, "the instance failed");
  EXPECT_TRUE(wait_until([&] { return !process_start_time(server); }, soon()));
}

TEST_F(PropolisDriverTest, ZoneRunsAVmAndNothingOfItIsLeft) {
  const fs::path support = fs::path(VMTEST_SIMULATED_PROPOLIS).parent_path().parent_path();
  const std::string path = std::getenv("PATH");
  const std::string port = std::to_string(ephemeral_port());
  const std::map<std::string, std::string> environment = {
      {"PATH", (support / "illumos").string() + ":" + path},
      {"VMTEST_ILLUMOS_STATE", (folder_.path() / "illumos").string()},
      {"VMTEST_ILLUMOS_LOG", (folder_.path() / "calls").string()},
      {"VMTEST_ILLUMOS_OWNER", std::to_string(::getpid())},
      {"VMTEST_ILLUMOS_PROPOLIS", std::string(VMTEST_SIMULATED_PROPOLIS) + " run /usr/share/ovmf/OVMF.fd 127.0.0.1:" + port},
      {"VMTEST_SIM_PROPOLIS_NET", "user:" + std::to_string(ephemeral_port())},
      {kVariable, "zone:nebula-vm"},
      {"VMTEST_PROPOLIS_ADDRESS", "127.0.0.1:" + port},
      {"VMTEST_PROPOLIS_SNAPSHOT", "rpool/images/tiny@latest"},
      {"VMTEST_PROPOLIS_DATASET", "rpool/vms"},
      {"VMTEST_PROPOLIS_LINK", "igb0"}};
  for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
  for (const char* arguments :
       {"create -p rpool/images", "create rpool/vms", "create -V 1m rpool/images/tiny", "snapshot rpool/images/tiny@latest"}) {
    std::istringstream words(arguments);
    run_tool(
        [&] {
          std::vector<std::string> argv = {"zfs"};
          for (std::string word; words >> word;) argv.push_back(word);
          return argv;
        }(),
        soon());
  }
  MachineConfig with = machine();
  with.disks = {{.path = "/a/disk/that/the/snapshot/is/instead/of", .format = DiskFormat::Raw, .id = "root"}};
  const std::string why = failure_of([&] {
    (void)driver_.start(prepare(), with);
    EXPECT_EQ(driver_.state(*vm_), VmState::Running);
    driver_.destroy(*vm_);
  });
  EXPECT_EQ(why, "nothing was thrown");
  const ToolResult zones = run_tool({"zoneadm", "list", "-c"}, soon());
  const ToolResult datasets = run_tool({"zfs", "list", "-H", "-o", "name", "-r", "rpool/vms"}, soon());
  const ToolResult links = run_tool({"dladm", "show-vnic", "-p", "-o", "link"}, soon());
  for (const auto& [name, value] : environment) ::unsetenv(name.c_str());
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(zones.out, "global\n");
  EXPECT_EQ(datasets.out, "rpool/vms\n");
  EXPECT_EQ(links.out, "");
  EXPECT_SAYS(read_file(folder_.path() / "calls"), "\"boot\"");
}

TEST_F(PropolisDriverTest, WhoTypesIsHeard) {
  MachineConfig with = machine();
  with.memory_mib = 128;  // the shell needs more than the firmware
  // Without a card, which the firmware would try to boot from.
  with.nics.clear();
  PrepareRequest request = this->request();
  request.nics.clear();
  (void)driver_.start(*(vm_ = driver_.prepare(request)), with);
  const ConsoleEndpoint console = driver_.console_endpoint(*vm_);
  const FileDescriptor line = connect_unix(console.address);
  ASSERT_TRUE(wait_until([&] { return read_file_tail(console.log, 1U << 20).find("startup.nsh") != std::string::npos; }, soon()));
  // The firmware's shell; a key ends its wait for a script.
  send_message(line.get(), "\033");
  ASSERT_TRUE(wait_until([&] { return read_file_tail(console.log, 1U << 20).find("Shell>") != std::string::npos; }, soon()));
  send_message(line.get(), "echo typed-%lasterror%\r");
  EXPECT_TRUE(wait_until([&] { return read_file_tail(console.log, 1U << 20).find("typed-0") != std::string::npos; }, soon()));
  std::string seen;
  std::vector<FileDescriptor> none;
  while (seen.find("typed-0") == std::string::npos && wait_readable(line.get(), soon()) && receive_some(line.get(), seen, none)) {
  }
  EXPECT_SAYS(seen, "typed-0");
  // Its way to power off.
  send_message(line.get(), "reset -s\r");
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->orderly) << exit->how;
  EXPECT_EQ(driver_.state(*vm_), VmState::Stopped);
}

}  // namespace
}  // namespace vmtest
