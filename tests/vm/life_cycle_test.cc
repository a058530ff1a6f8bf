// Reboots, power, pauses and crashes of a running guest.

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>
#include <utility>

#include "vmtest/host/socket.h"
#include "vmtest/router_driver.h"
#include "vmtest/supervisor.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

class TinyLifeCycleTest : public VmTest {};

TEST_F(TinyLifeCycleTest, RebootWaitsForTheNewBoot) {
  const std::string before = vm().run("cat /proc/sys/kernel/random/boot_id").out;
  vm().run("echo kept > /root/file && sync; echo said before > /dev/console");
  vm().reboot();
  EXPECT_NE(vm().run("cat /proc/sys/kernel/random/boot_id").out, before);
  EXPECT_EQ(vm().run("cat /root/file").out, "kept\n");
  EXPECT_NE(vm().console().text().find("said before"), std::string::npos) << "the log was begun anew";
}

TEST_F(TinyLifeCycleTest, ConsoleIsTypedTo) {
  const ConsoleEndpoint console = RouterDriver().console_endpoint(vm().handle());
  ASSERT_EQ(console.kind, ConsoleEndpoint::Kind::UnixSocket);
  const auto reader = vm().spawn({"sh", "-c", "echo reads; exec head -n 1 /dev/console"});
  vm().wait_until([&] { return !reader->stdout_so_far().empty(); }, 20s, "somebody in the guest to read");
  const FileDescriptor person = connect_unix(console.address);
  // A line that comes before somebody reads it waits in the terminal.
  write_all(person.get(), "typed\r");
  EXPECT_EQ(reader->wait(20s).out, "reads\ntyped\n");
  EXPECT_NE(vm().console().wait_for("typed", 20s), "") << "the guest's terminal echoes it";
}

TEST_F(TinyLifeCycleTest, ShutdownIsGracefulAndStartBootsAgain) {
  vm().run("echo kept > /root/file");
  const VmExit exit = vm().shutdown();
  EXPECT_FALSE(exit.forced) << exit.how;
  EXPECT_NE(exit.how.find("the guest powered off"), std::string::npos) << exit.how;
  EXPECT_EQ(vm().state(), VmState::Stopped);
  vm().start();
  EXPECT_EQ(vm().state(), VmState::Ready);
  EXPECT_EQ(vm().run("cat /root/file").out, "kept\n");
}

TEST_F(TinyLifeCycleTest, CallsOnAStoppedGuestSayItIsNotRunning) {
  vm().power_off();
  try {
    (void)vm().exec("true");
    FAIL() << "a stopped guest answered";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("is not running"), std::string::npos);
  }
}

TEST_F(TinyLifeCycleTest, PausedGuestStandsStill) {
  auto counter = vm().spawn("i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done");
  vm().wait_until([&] { return !counter->stdout_so_far().empty(); }, 20s, "the counter to start");
  try {
    vm().pause();
  } catch (const Unsupported& why) {
    GTEST_SKIP() << why.what();
  }
  EXPECT_EQ(vm().state(), VmState::Suspended);
  // What was on its way at that moment has come when nothing does for a second.
  std::string so_far;
  const auto counts = [&] {
    const std::string before = std::exchange(so_far, counter->stdout_so_far());
    return so_far != before;
  };
  for (int window = 0; window < 5; ++window) {
    (void)counts();
    std::this_thread::sleep_for(1s);
    if (!counts()) break;
  }
  EXPECT_FALSE(counts()) << "a paused guest counts";
  vm().resume();
  vm().wait_until(counts, 20s, "the counter to go on");
}

TEST_F(TinyLifeCycleTest, DeadHypervisorEndsACommandAtOnce) {
  const auto processes = SupervisorConnection::connect(vm().handle().supervisor_socket())->status().processes;
  ASSERT_EQ(processes.size(), 1U);
  const pid_t hypervisor = processes.begin()->second;
  GuestCommand command{"echo started; sleep 1000"};
  command.on_stdout = [&](std::string_view) { ::kill(hypervisor, SIGKILL); };
  const auto started = std::chrono::steady_clock::now();
  try {
    (void)vm().exec(command);
    FAIL() << "the command ended";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("signal 9"), std::string::npos) << error.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - started, 20s);
  EXPECT_EQ(vm().state(), VmState::Failed);
}

TEST_F(TinyLifeCycleTest, GuestsOwnPowerOffIsNoticed) {
  vm().run("(sleep 0.2; poweroff) > /dev/null 2>&1 &");
  try {
    vm().wait_until([] { return false; }, 60s, "what never comes");
    FAIL() << "waited for nothing";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the guest powered off"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace vmtest
