// vmtest-propolis-keeper as a program: with servers of others, in zones, with silent servers.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "api_client.h"
#include "illumos_plan.h"
#include "instance_spec.h"
#include "run_plan.h"
#include "settings.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
#include "wait.h"

namespace vmtest::propolis {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::wait_until;

constexpr const char* kFirmware = "/usr/share/ovmf/OVMF.fd";

Deadline soon() { return Deadline::after(20s); }

class KeeperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kFirmware)) GTEST_SKIP() << "no boot ROM " << kFirmware;
    write_file(plan_.body, body("6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11"));
    environment_["VMTEST_ILLUMOS_STATE"] = (folder_.path() / "illumos").string();
    environment_["VMTEST_ILLUMOS_LOG"] = calls_.string();
    environment_["VMTEST_ILLUMOS_OWNER"] = std::to_string(::getpid());
    environment_["PATH"] = stand_ins().string() + ":" + std::getenv("PATH");
  }
  void TearDown() override { EXPECT_FALSE(fs::exists(plan_.journal)) << "something was not taken back"; }

  [[nodiscard]] static std::string body(const std::string& id, const std::string& serial = {}) {
    MachineConfig machine;
    machine.memory_mib = 64;
    machine.boot = BootMode::Uefi;
    machine.smbios_serial = serial;
    return instance_body(machine, {.id = id, .name = "t1", .vnics = {}});
  }
  [[nodiscard]] static fs::path support() { return fs::path(VMTEST_SIMULATED_PROPOLIS).parent_path().parent_path(); }
  [[nodiscard]] static fs::path stand_ins() { return support() / "illumos"; }

  ChildProcess start_keeper() {
    write_file(folder_.path() / "plan.json", to_json(plan_));
    errors_ = open_file(words_, O_WRONLY | O_CREAT | O_TRUNC);
    return ChildProcess::start({.argv = {find_keeper().string(), "run", (folder_.path() / "plan.json").string()},
                                .environment = environment_,
                                .working_directory = folder_.path(),
                                .standard_error = errors_.get()});
  }
  [[nodiscard]] bool runs() const {
    return wait_until([&] { return fs::exists(plan_.running); }, soon());
  }
  [[nodiscard]] std::string words() const { return read_file(words_); }
  /// A server that somebody else runs.
  ChildProcess start_server() {
    plan_.port = ephemeral_port();
    return ChildProcess::start({.argv = {VMTEST_SIMULATED_PROPOLIS, "run", kFirmware, "127.0.0.1:" + std::to_string(plan_.port)},
                                .working_directory = folder_.path()});
  }
  /// Waits for the guest to print `text` behind `from`. Where it ends, or npos.
  [[nodiscard]] std::size_t printed(const std::string& text, std::size_t from) const {
    std::size_t at = std::string::npos;
    (void)wait_until([&] { return (at = read_file(plan_.console_log).find(text, from)) != std::string::npos; },
                     Deadline::after(60s));
    return at == std::string::npos ? at : at + text.size();
  }
  void tool(const std::vector<std::string>& argv) const {
    std::vector<std::string> found = argv;
    found.front() = (stand_ins() / argv.front()).string();
    run_tool(found, soon(), environment_);
  }
  /// What a listing says of the host as it is, without a record of the question.
  [[nodiscard]] std::string names_of(const std::vector<std::string>& argv) const {
    std::vector<std::string> found = argv;
    found.front() = (stand_ins() / argv.front()).string();
    std::map<std::string, std::string> environment = environment_;
    environment["VMTEST_ILLUMOS_LOG"] = "";
    return run_tool(found, soon(), environment).out;
  }
  [[nodiscard]] ToolResult undo() const {
    return exec_tool({find_keeper().string(), "undo", plan_.journal.string()}, soon(), environment_);
  }
  /// The calls of the stand-ins, a line each.
  [[nodiscard]] std::vector<std::string> calls() const {
    std::vector<std::string> all;
    std::istringstream lines(read_file_tail(calls_, 1U << 20));
    for (std::string line; std::getline(lines, line);)
      all.push_back(format_command(nlohmann::json::parse(line).get<std::vector<std::string>>()));
    return all;
  }
  /// An image's snapshot, a network card, and a zone whose boot starts the server.
  void prepare_illumos() {
    tool({"zfs", "create", "-p", "rpool/images"});
    tool({"zfs", "create", "rpool/vms"});
    tool({"zfs", "create", "-V", "1m", "rpool/images/tiny"});
    tool({"zfs", "snapshot", "rpool/images/tiny@latest"});
    fs::remove(calls_);
    plan_.port = ephemeral_port();
    environment_["VMTEST_ILLUMOS_PROPOLIS"] =
        std::string(VMTEST_SIMULATED_PROPOLIS) + " run " + kFirmware + " 127.0.0.1:" + std::to_string(plan_.port);
    const LinkPlan link{.name = "vmtest0", .mac_address = "52:54:00:12:34:56", .host_address = "198.18.0.1/30"};
    plan_.steps = vnic_steps(link, "igb0");
    const std::vector<Step> zone = zone_steps({.zone = "t1",
                                               .brand = "nebula-vm",
                                               .zonepath = folder_.path() / "zone",
                                               .vnic = "vmtest0",
                                               .snapshot = "rpool/images/tiny@latest",
                                               .dataset = "rpool/vms/t1"});
    plan_.steps.insert(plan_.steps.end(), zone.begin(), zone.end());
  }
  [[nodiscard]] std::vector<std::string> planned_undo(std::size_t count) const {
    std::vector<std::string> all;
    for (std::size_t i = count; i-- > 0;) all.push_back(format_command(plan_.steps[i].undo));
    return all;
  }

  TemporaryDirectory folder_;
  std::map<std::string, std::string> environment_;
  fs::path words_ = folder_.path() / "words";
  fs::path calls_ = folder_.path() / "calls";
  FileDescriptor errors_;
  RunPlan plan_{.body = folder_.path() / "instance.json",
                .console_log = folder_.path() / "console.log",
                .console_socket = folder_.path() / "console.sock",
                .running = folder_.path() / "server.json",
                .journal = folder_.path() / "journals" / "t1.json",
                .patience = 20s};
};

TEST_F(KeeperTest, StopsAtATermAndLeavesTheServerOfOthers) {
  ChildProcess server = start_server();
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  keeper.signal(SIGTERM);
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{0, 0})) << words();
  EXPECT_TRUE(server.running());
  EXPECT_EQ(ApiClient("127.0.0.1", plan_.port).find_state(soon()), State::Destroyed);
}

TEST_F(KeeperTest, ServerThatHoldsAnotherInstanceIsWaitedForAndNamed) {
  ChildProcess server = start_server();
  ChildProcess first = start_keeper();
  ASSERT_TRUE(runs()) << words();
  plan_.patience = 1s;
  plan_.journal = folder_.path() / "journals" / "t2.json";
  write_file(plan_.body, body("6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d12"));
  ChildProcess second = start_keeper();
  EXPECT_EQ(second.wait(soon()), (ExitStatus{1, 0}));
  EXPECT_NE(words().find("it holds another instance, which is Running"), std::string::npos) << words();
  EXPECT_NE(words().find("a server serves one VM at a time"), std::string::npos) << words();
  first.signal(SIGTERM);
  EXPECT_TRUE(first.wait(soon()));
}

TEST_F(KeeperTest, LostServerOfOthersIsAnError) {
  ChildProcess server = start_server();
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  server.kill_group();
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{1, 0}));
  EXPECT_NE(words().find("the instance is gone"), std::string::npos) << words();
}

TEST_F(KeeperTest, ServerOfOthersServesOneVmAfterAnother) {
  ChildProcess server = start_server();
  for (const char* id : {"6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11", "6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d12"}) {
    write_file(plan_.body, body(id));
    fs::remove(plan_.running);
    ChildProcess keeper = start_keeper();
    ASSERT_TRUE(runs()) << words();
    EXPECT_EQ(ApiClient("127.0.0.1", plan_.port).instance(soon()).at("instance").at("properties").at("id"), id);
    keeper.signal(SIGTERM);
    EXPECT_EQ(keeper.wait(soon()), (ExitStatus{0, 0})) << words();
  }
}

TEST_F(KeeperTest, InstanceOfAKilledKeeperOnAServerOfOthersIsStopped) {
  ChildProcess server = start_server();
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  keeper.signal(SIGKILL);
  EXPECT_TRUE(keeper.wait(soon()));
  EXPECT_EQ(ApiClient("127.0.0.1", plan_.port).find_state(soon()), State::Running);
  EXPECT_TRUE(exec_tool({find_keeper().string(), "undo", plan_.journal.string()}, soon()).status.ok());
  EXPECT_EQ(ApiClient("127.0.0.1", plan_.port).find_state(soon()), State::Destroyed);
}

TEST_F(KeeperTest, JournalStopsNoOthersInstance) {
  ChildProcess server = start_server();
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  const fs::path journal = folder_.path() / "other.json";
  write_file(journal, nlohmann::json{{"steps", nlohmann::json::array()},
                                     {"begun", 0},
                                     {"instance", {{"host", "127.0.0.1"}, {"port", plan_.port}, {"id", "another"}}}}
                          .dump());
  EXPECT_TRUE(exec_tool({find_keeper().string(), "undo", journal.string()}, soon()).status.ok());
  EXPECT_EQ(ApiClient("127.0.0.1", plan_.port).find_state(soon()), State::Running);
  keeper.signal(SIGTERM);
  EXPECT_TRUE(keeper.wait(soon()));
}

TEST_F(KeeperTest, ServerThatNeverAnswersIsGivenUp) {
  const fs::path program = folder_.path() / "silent";
  write_file(program, "#!/bin/sh\nexec python3 " + (support() / "propolis/faulty_server.py").string() + " silent \"$@\"\n", 0700);
  plan_.program = program;
  plan_.bootrom = kFirmware;
  plan_.server_log = folder_.path() / "server.log";
  plan_.patience = 1s;
  ChildProcess keeper = start_keeper();
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{1, 0}));
  EXPECT_NE(words().find("within 1 s: it does not answer"), std::string::npos) << words();
}

TEST_F(KeeperTest, ConsoleSocketWithTooLongAPathIsAnError) {
  plan_.program = VMTEST_SIMULATED_PROPOLIS;
  plan_.bootrom = kFirmware;
  plan_.server_log = folder_.path() / "server.log";
  plan_.console_socket = folder_.path() / std::string(100, 's');
  ChildProcess keeper = start_keeper();
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{1, 0}));
  EXPECT_NE(words().find("too long"), std::string::npos) << words();
}

TEST_F(KeeperTest, ShellDoesNotWaitBeforeAStartupScriptOfOurs) {
  plan_.program = VMTEST_SIMULATED_PROPOLIS;
  plan_.bootrom = kFirmware;
  plan_.server_log = folder_.path() / "server.log";
  plan_.startup_script = true;
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  const std::size_t shell = printed("Shell> ", 0);
  ASSERT_NE(shell, std::string::npos) << read_file(plan_.console_log);
  send_message(connect_unix(plan_.console_socket).get(), "reset\r");
  const std::size_t again = printed("in 5 seconds", shell);
  ASSERT_NE(again, std::string::npos) << read_file(plan_.console_log);
  ASSERT_NE(printed("Shell> ", again), std::string::npos) << read_file(plan_.console_log);
  EXPECT_EQ(read_file(plan_.console_log).find("in 1 seconds"), std::string::npos) << read_file(plan_.console_log);
  keeper.signal(SIGTERM);
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{0, 0})) << words();
}

TEST_F(KeeperTest, OldServerRunsAGuestToo) {
  environment_["VMTEST_SIM_PROPOLIS_VERSION"] = "1.0.0";
  plan_.program = VMTEST_SIMULATED_PROPOLIS;
  plan_.bootrom = kFirmware;
  plan_.server_log = folder_.path() / "server.log";
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  EXPECT_EQ(parse_running_server(read_file(plan_.running)).version, "1.0.0");
  keeper.signal(SIGTERM);
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{0, 0})) << words();
}

TEST_F(KeeperTest, OldServerCannotGiveASerialNumber) {
  environment_["VMTEST_SIM_PROPOLIS_VERSION"] = "1.0.0";
  plan_.program = VMTEST_SIMULATED_PROPOLIS;
  plan_.bootrom = kFirmware;
  plan_.server_log = folder_.path() / "server.log";
  write_file(plan_.body, body("6f0c1d0e-3a5e-4c5e-9b6f-0d6a3f1c7d11", "ds=nocloud"));
  ChildProcess keeper = start_keeper();
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{1, 0}));
  EXPECT_NE(words().find("version 1.0.0"), std::string::npos) << words();
}

TEST_F(KeeperTest, ZoneIsMadeForTheRunAndUnmadeAfter) {
  prepare_illumos();
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  std::vector<std::string> wanted;
  for (const Step& step : plan_.steps) wanted.push_back(format_command(step.run));
  EXPECT_EQ(calls(), wanted);
  keeper.signal(SIGTERM);
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{0, 0})) << words();
  for (const std::string& call : planned_undo(plan_.steps.size())) wanted.push_back(call);
  EXPECT_EQ(calls(), wanted);
}

TEST_F(KeeperTest, StepThatFailsTakesThoseBeforeItBack) {
  prepare_illumos();
  environment_["VMTEST_ILLUMOS_FAIL"] = "zoneadm install";
  ChildProcess keeper = start_keeper();
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{1, 0}));
  EXPECT_NE(words().find("cannot prepare the host"), std::string::npos) << words();
  EXPECT_NE(words().find("VMTEST_ILLUMOS_FAIL"), std::string::npos) << words();
  std::vector<std::string> wanted;
  for (std::size_t i = 0; i < 5; ++i) wanted.push_back(format_command(plan_.steps[i].run));
  for (const std::string& call : planned_undo(5)) wanted.push_back(call);
  // There was nothing to uninstall, which is seen when the zone is gone.
  wanted.push_back("zoneadm list -c");
  EXPECT_EQ(calls(), wanted);
}

TEST_F(KeeperTest, StepThatFailsWithItsWorkDoneIsTakenBackToo) {
  prepare_illumos();
  environment_["VMTEST_ILLUMOS_FAIL_LATE"] = "zoneadm boot";
  ChildProcess keeper = start_keeper();
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{1, 0}));
  EXPECT_NE(words().find("cannot prepare the host"), std::string::npos) << words();
  EXPECT_EQ(words().find("cannot undo"), std::string::npos) << words();
  EXPECT_EQ(names_of({"zoneadm", "list", "-c"}), "global\n");
  EXPECT_EQ(names_of({"zfs", "list", "-H", "-o", "name", "-r", "rpool/vms"}), "rpool/vms\n");
  EXPECT_EQ(names_of({"dladm", "show-vnic", "-p", "-o", "link"}), "");
}

TEST_F(KeeperTest, WhatCannotBeTakenBackStaysInTheJournal) {
  prepare_illumos();
  environment_["VMTEST_ILLUMOS_FAIL"] = "zfs destroy";
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  keeper.signal(SIGTERM);
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{0, 0})) << words();
  EXPECT_NE(words().find("cannot undo \"zfs clone"), std::string::npos) << words();
  EXPECT_NE(words().find("\"vmtest gc\""), std::string::npos) << words();
  fs::remove(calls_);
  const ToolResult failed = undo();
  EXPECT_EQ(failed.status, (ExitStatus{1, 0}));
  EXPECT_NE(failed.err.find("failed as VMTEST_ILLUMOS_FAIL asks"), std::string::npos) << failed.err;
  EXPECT_EQ(calls(), (std::vector<std::string>{"zfs destroy -r rpool/vms/t1", "zfs list -H -o name -t volume"}));
  environment_.erase("VMTEST_ILLUMOS_FAIL");
  EXPECT_TRUE(undo().status.ok());
  EXPECT_EQ(names_of({"zfs", "list", "-H", "-o", "name", "-r", "rpool/vms"}), "rpool/vms\n");
}

TEST_F(KeeperTest, WhatIsTakenBackByHandIsNotAskedForAgain) {
  prepare_illumos();
  environment_["VMTEST_ILLUMOS_FAIL_LATE"] = "zoneadm boot";
  environment_["VMTEST_ILLUMOS_FAIL"] = "zfs destroy";
  ChildProcess keeper = start_keeper();
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{1, 0}));
  EXPECT_NE(words().find("cannot undo \"zfs clone"), std::string::npos) << words();
  environment_.erase("VMTEST_ILLUMOS_FAIL");
  tool({"zfs", "destroy", "-r", "rpool/vms/t1"});
  environment_["VMTEST_ILLUMOS_FAIL"] = "zfs destroy";
  const ToolResult undone = undo();
  EXPECT_TRUE(undone.status.ok()) << undone.err;
}

TEST_F(KeeperTest, ZoneOfAKilledKeeperIsUnmadeByItsJournal) {
  prepare_illumos();
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  EXPECT_TRUE(fs::exists(plan_.journal));
  fs::remove(calls_);
  keeper.signal(SIGKILL);
  EXPECT_TRUE(keeper.wait(soon()));
  const ToolResult undone = undo();
  EXPECT_TRUE(undone.status.ok()) << undone.err;
  EXPECT_EQ(calls(), planned_undo(plan_.steps.size()));
  EXPECT_THROW((void)ApiClient("127.0.0.1", plan_.port).find_state(soon()), std::system_error);
}

TEST_F(KeeperTest, NextRunTakesBackWhatAKilledOneLeft) {
  prepare_illumos();
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  const fs::path left = plan_.journal;
  keeper.signal(SIGKILL);
  EXPECT_TRUE(keeper.wait(soon()));
  fs::remove(plan_.running);
  plan_.journal = left.parent_path() / "t2.json";
  ChildProcess next = start_keeper();
  ASSERT_TRUE(runs()) << words();
  EXPECT_FALSE(fs::exists(left));
  next.signal(SIGTERM);
  EXPECT_EQ(next.wait(soon()), (ExitStatus{0, 0})) << words();
}

TEST_F(KeeperTest, UndoWaitsForALivingRunAndHasNothingToDoAfter) {
  prepare_illumos();
  ChildProcess keeper = start_keeper();
  ASSERT_TRUE(runs()) << words();
  ChildProcess undo =
      ChildProcess::start({.argv = {find_keeper().string(), "undo", plan_.journal.string()}, .environment = environment_});
  EXPECT_FALSE(undo.wait(Deadline::after(300ms))) << "a living run's steps are its own";
  keeper.signal(SIGTERM);
  EXPECT_EQ(keeper.wait(soon()), (ExitStatus{0, 0})) << words();
  EXPECT_EQ(undo.wait(soon()), (ExitStatus{0, 0}));
}

TEST_F(KeeperTest, UndoLeavesNoLockOfOneThatWasKilledBeforeItsFirstStep) {
  const fs::path lock = plan_.journal.string() + ".lock";
  fs::create_directory(lock.parent_path());
  write_file(lock, "");
  EXPECT_TRUE(exec_tool({find_keeper().string(), "undo", plan_.journal.string()}, soon()).status.ok());
  EXPECT_FALSE(fs::exists(lock));
}

TEST_F(KeeperTest, PlanThatIsNoneIsAnError) {
  write_file(folder_.path() / "none.json", "{}");
  const ToolResult result = exec_tool({find_keeper().string(), "run", (folder_.path() / "none.json").string()}, soon());
  EXPECT_EQ(result.status.code, 1);
  EXPECT_NE(result.err.find("this is no plan of a run"), std::string::npos) << result.err;
  EXPECT_EQ(exec_tool({find_keeper().string()}, soon()).status.code, 2);
}

}  // namespace
}  // namespace vmtest::propolis
