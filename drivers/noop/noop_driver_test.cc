#include "vmtest/noop_driver.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

class NoopDriverTest : public ::testing::Test {
 protected:
  [[nodiscard]] PrepareRequest request(const std::string& name = "web") const {
    PrepareRequest request;
    request.name = name;
    request.vms_dir = folder_.path() / "vms";
    return request;
  }
  [[nodiscard]] VmHandle start(NoopDriver& driver) const { return driver.start(driver.prepare(request()), {}); }

  TemporaryDirectory folder_;
};

TEST_F(NoopDriverTest, RemembersWhatItWasAsked) {
  NoopDriver driver;
  const VmHandle vm = driver.prepare(request());
  MachineConfig machine;
  machine.vcpus = 3;
  (void)driver.start(vm, machine);
  EXPECT_THROW((void)driver.resume(vm), Error);
  driver.destroy(vm);
  EXPECT_EQ(driver.calls(), (std::vector<NoopCall>{{"prepare", "web"}, {"start", "web"}, {"resume", "web"}, {"destroy", "web"}}));
}

TEST_F(NoopDriverTest, KnowsTheMachineItStarted) {
  NoopDriver driver;
  const VmHandle vm = driver.prepare(request());
  EXPECT_THROW((void)driver.machine_of("web"), Error);
  MachineConfig machine;
  machine.vcpus = 3;
  (void)driver.start(vm, machine);
  EXPECT_EQ(driver.machine_of("web").vcpus, 3U);
  EXPECT_THROW((void)driver.machine_of("other"), Error);
}

TEST_F(NoopDriverTest, PrintsItsScriptAtEachStart) {
  NoopDriver driver({.console = "hello\n"});
  const VmHandle vm = start(driver);
  driver.print("web", "more\n");
  (void)driver.stop(vm, 0ms);
  (void)driver.start(vm, {});
  EXPECT_EQ(read_file(driver.console_endpoint(vm).log), "hello\nmore\nhello\n");
}

TEST_F(NoopDriverTest, FailsAsScripted) {
  NoopDriver driver({.failures = {{"suspend", "the moon is full"}}});
  const VmHandle vm = start(driver);
  try {
    (void)driver.suspend(vm);
    FAIL() << "it was suspended";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "cannot suspend VM \"web\"\nthe moon is full");
  }
  EXPECT_EQ(driver.state(vm), VmState::Running);
}

TEST_F(NoopDriverTest, FailedPrepareLeavesNothing) {
  NoopDriver driver({.failures = {{"prepare", "no"}}});
  EXPECT_THROW((void)driver.prepare(request()), Error);
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "vms"));
}

TEST_F(NoopDriverTest, TakesItsTimeButNotMoreThanStopWasGiven) {
  NoopDriver driver({.delays = {{"start", 30ms}, {"stop", 10s}}});
  const auto begin = std::chrono::steady_clock::now();
  const VmHandle vm = start(driver);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 30ms);
  (void)driver.stop(vm, 20ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  EXPECT_EQ(driver.state(vm), VmState::Stopped);
}

TEST_F(NoopDriverTest, EndsByItselfAsScripted) {
  NoopDriver crashing({.ending = NoopScript::Ending{10ms, {"the sky fell", "last words", false}}});
  const VmHandle vm = start(crashing);
  EXPECT_EQ(crashing.state(vm), VmState::Running);
  const auto exit = crashing.wait_exit(vm, 20s);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->how, "the sky fell");
  EXPECT_EQ(exit->last_words, "last words");
  EXPECT_EQ(crashing.state(vm), VmState::Failed);
}

TEST_F(NoopDriverTest, AddressMayBeUnknown) {
  NoopDriver driver({.ip = ""});
  const VmHandle vm = start(driver);
  EXPECT_THROW((void)driver.guest_ip(vm), Error);
}

TEST_F(NoopDriverTest, CommandsAreAnsweredByTheScript) {
  NoopDriver driver({.on_command = [](const GuestCommand& command) {
    return CommandResult{.exit_code = 3, .out = "you said " + command.argv.front()};
  }});
  const VmHandle vm = start(driver);
  const auto guest = driver.guests()->connect_guest(vm);
  EXPECT_EQ(guest->exec("ls").out, "you said ls");
  EXPECT_EQ(guest->spawn("ls")->wait(1s).exit_code, 3);
  (void)driver.suspend(vm);
  EXPECT_THROW((void)guest->exec("ls"), Error);
}

TEST_F(NoopDriverTest, FilesThatWerePushedCanBePulled) {
  NoopDriver driver;
  const VmHandle vm = start(driver);
  const auto guest = driver.guests()->connect_guest(vm);
  write_file(folder_.path() / "file", "content");
  guest->push(folder_.path() / "file", "/etc/file");
  guest->pull("/etc/file", folder_.path() / "again");
  EXPECT_EQ(read_file(folder_.path() / "again"), "content");
  EXPECT_THROW(guest->pull("/etc/other", folder_.path() / "x"), Error);
  EXPECT_THROW(guest->push(folder_.path() / "file", "relative"), Error);
  guest->push(folder_.path() / "file", "/../../../escaped");
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "escaped"));
}

TEST_F(NoopDriverTest, WorldsAreApart) {
  NoopDriver one;
  NoopDriver other;
  const VmHandle vm = start(one);
  EXPECT_EQ(other.state(vm), VmState::Destroyed);
}

}  // namespace
}  // namespace vmtest
