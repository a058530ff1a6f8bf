#include "vmtest/noop_driver.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "failure.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;
using testing::failure_of;

Deadline soon() { return Deadline::after(20s); }

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

TEST_F(NoopDriverTest, EveryCallOnAVmFailsAsScripted) {
  const std::vector<std::pair<std::string, std::function<void(NoopDriver&, const VmHandle&)>>> calls = {
      {"start", [](NoopDriver& driver, const VmHandle& vm) { (void)driver.start(vm, {}); }},
      {"stop", [](NoopDriver& driver, const VmHandle& vm) { (void)driver.stop(vm, 0ms); }},
      {"suspend", [](NoopDriver& driver, const VmHandle& vm) { (void)driver.suspend(vm); }},
      {"resume", [](NoopDriver& driver, const VmHandle& vm) { (void)driver.resume(vm); }},
      {"destroy", [](NoopDriver& driver, const VmHandle& vm) { driver.destroy(vm); }},
      {"resize_vcpus", [](NoopDriver& driver, const VmHandle& vm) { driver.resizing()->resize_vcpus(vm, 1, soon()); }},
      {"resize_memory", [](NoopDriver& driver, const VmHandle& vm) { driver.resizing()->resize_memory(vm, 256, soon()); }},
      {"resize_disk", [](NoopDriver& driver, const VmHandle& vm) { driver.resizing()->resize_disk(vm, "root", 1, soon()); }},
      {"inject_nmi", [](NoopDriver& driver, const VmHandle& vm) { driver.inspection()->inject_nmi(vm, soon()); }},
      {"dump_memory", [](NoopDriver& driver, const VmHandle& vm) { driver.inspection()->dump_memory(vm, "/core", soon()); }},
  };
  for (const auto& [name, call] : calls) {
    NoopDriver driver({.failures = {{name, "the moon is full"}}});
    const VmHandle vm = driver.prepare(request(name));
    const std::string why = failure_of([&, &attempt = call] { attempt(driver, vm); });
    EXPECT_EQ(why, "cannot " + name + " VM \"" + name + "\"\nthe moon is full");
    EXPECT_EQ(driver.state(vm), VmState::Prepared) << name;
    EXPECT_EQ(driver.calls().back(), (NoopCall{name, name})) << "it was asked, all the same";
  }
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

TEST_F(NoopDriverTest, GuestThatPowersOffAsScriptedIsStopped) {
  NoopDriver driver({.ending = NoopScript::Ending{10ms, {"the guest powered off", "", true}}});
  const VmHandle vm = driver.prepare(request());
  auto waiter = std::async(std::launch::async, [&] { return driver.wait_exit(vm, 20s); });
  (void)driver.start(vm, {});
  const auto exit = waiter.get();
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->how, "the guest powered off");
  EXPECT_TRUE(exit->orderly);
  EXPECT_EQ(driver.state(vm), VmState::Stopped);
}

TEST_F(NoopDriverTest, ScriptedEndComesAfterEachStart) {
  NoopDriver driver({.ending = NoopScript::Ending{10ms, {"the guest powered off", "", true}}});
  const VmHandle vm = start(driver);
  ASSERT_TRUE(driver.wait_exit(vm, 20s));
  (void)driver.start(vm, {});
  EXPECT_TRUE(driver.wait_exit(vm, 20s));
  EXPECT_EQ(driver.state(vm), VmState::Stopped) << "that was the end before";
}

TEST_F(NoopDriverTest, StopIsTheEndOfAVmThatWasToEndLater) {
  NoopDriver driver({.ending = NoopScript::Ending{1h, {"the sky fell", "", false}}});
  const VmHandle vm = start(driver);
  (void)driver.stop(vm, 0ms);
  const auto exit = driver.wait_exit(vm, 0ms);
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->how, "the VM was stopped as asked");
  EXPECT_TRUE(exit->orderly);
}

TEST_F(NoopDriverTest, VmIsEndedByHand) {
  NoopDriver driver;
  const VmHandle vm = driver.prepare(request());
  EXPECT_EQ(failure_of([&] { driver.end("web", {"the sky fell", "", false}); }), "VM \"web\" cannot end: it is prepared");
  EXPECT_EQ(failure_of([&] { driver.end("other", {"the sky fell", "", false}); }), "there is no VM \"other\"");
  (void)driver.start(vm, {});
  (void)driver.suspend(vm);
  driver.end("web", {"the sky fell", "last words", false});
  EXPECT_EQ(driver.state(vm), VmState::Failed);
  EXPECT_EQ(driver.wait_exit(vm, 0ms)->last_words, "last words");
}

TEST_F(NoopDriverTest, VmKeepsTheScriptOfWhoPreparedIt) {
  NoopDriver one({.ip = "192.0.2.7", .failures = {{"suspend", "not mine"}}});
  NoopDriver other({.ip = "192.0.2.8"}, one.world());
  const VmHandle vm = start(one);
  EXPECT_EQ(other.guest_ip(vm), "192.0.2.7");
  EXPECT_EQ(failure_of([&] { (void)other.suspend(vm); }), "cannot suspend VM \"web\"\nnot mine");
  EXPECT_EQ(other.calls(), one.calls());
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

TEST_F(NoopDriverTest, CommandThatSaysNothingSucceeds) {
  NoopDriver driver;
  const VmHandle vm = start(driver);
  const CommandResult result = driver.guests()->connect_guest(vm)->exec("make coffee");
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.out + result.err, "");
}

TEST_F(NoopDriverTest, WhoListensHearsWhatACommandSays) {
  NoopDriver driver(
      {.on_command = [](const GuestCommand&) { return CommandResult{.exit_code = 0, .out = "out", .err = "err"}; }});
  const VmHandle vm = start(driver);
  std::string heard;
  GuestCommand command("ls");
  command.on_stdout = [&](std::string_view text) { heard += text; };
  command.on_stderr = [&](std::string_view text) { heard += text; };
  (void)driver.guests()->connect_guest(vm)->exec(command);
  EXPECT_EQ(heard, "outerr");
}

TEST_F(NoopDriverTest, ProcessHasEndedWithItsAnswer) {
  NoopDriver driver({.on_command = [](const GuestCommand&) { return CommandResult{.exit_code = 3, .out = "out"}; }});
  const VmHandle vm = start(driver);
  const auto process = driver.guests()->connect_guest(vm)->spawn("ls");
  EXPECT_EQ(process->stdout_so_far(), "out");
  EXPECT_EQ(process->poll()->exit_code, 3);
  EXPECT_EQ(failure_of([&] { process->write("more", 1s); }), "the process has ended: exit code 3");
}

TEST_F(NoopDriverTest, GuestRebootsByItself) {
  NoopDriver driver({.console = "hello\n"});
  const VmHandle vm = start(driver);
  const auto guest = driver.guests()->connect_guest(vm);
  const std::string before = guest->exec("cat /proc/sys/kernel/random/boot_id").out;
  EXPECT_EQ(guest->exec("cat /proc/sys/kernel/random/boot_id").out, before);
  EXPECT_TRUE(guest->exec("reboot").ok());
  EXPECT_NE(guest->exec("cat /proc/sys/kernel/random/boot_id").out, before);
  EXPECT_EQ(read_file(driver.console_endpoint(vm).log), "hello\nhello\n");
  EXPECT_EQ(driver.state(vm), VmState::Running);
}

TEST_F(NoopDriverTest, NothingListensInItsGuest) {
  NoopDriver driver;
  const VmHandle vm = start(driver);
  EXPECT_THROW((void)driver.guests()->connect_guest(vm)->forward(80), Unsupported);
}

TEST_F(NoopDriverTest, CountsWhatItsScriptSaysAsLongAsThereIsAGuest) {
  const std::vector<Counter> counters = {{"root", "read_bytes", 4096}};
  NoopDriver driver({.counters = counters});
  const VmHandle vm = start(driver);
  EXPECT_EQ(driver.inspection()->counters(vm, soon()), counters);
  (void)driver.suspend(vm);
  EXPECT_EQ(driver.inspection()->counters(vm, soon()), counters);
  (void)driver.stop(vm, 0ms);
  EXPECT_THROW((void)driver.inspection()->counters(vm, soon()), Error);
}

TEST_F(NoopDriverTest, DumpIsAnEmptyFileForItsOwnerAlone) {
  NoopDriver driver;
  const VmHandle vm = start(driver);
  const std::filesystem::path core = folder_.path() / "core";
  driver.inspection()->dump_memory(vm, core, soon());
  EXPECT_EQ(read_file(core), "");
  EXPECT_EQ(std::filesystem::status(core).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_THROW(driver.inspection()->dump_memory(vm, core, soon()), Error) << "it was there";
}

TEST_F(NoopDriverTest, HasTheSizeItWasGivenUntilItStartsAgain) {
  NoopDriver driver;
  const VmHandle vm = driver.prepare(request());
  const MachineConfig machine = {.vcpus = 2, .memory_mib = 256, .max_memory_mib = 512};
  (void)driver.start(vm, machine);
  driver.resizing()->resize_vcpus(vm, 1, soon());
  driver.resizing()->resize_memory(vm, 512, soon());
  EXPECT_EQ(driver.resizing()->size(vm, soon()), (MachineSize{1, 512}));
  EXPECT_EQ(driver.machine_of("web").vcpus, 1U);
  EXPECT_THROW(driver.resizing()->resize_disk(vm, "root", 1, soon()), Unsupported);
  (void)driver.stop(vm, 0ms);
  (void)driver.start(vm, machine);
  EXPECT_EQ(driver.resizing()->size(vm, soon()), (MachineSize{2, 256}));
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
