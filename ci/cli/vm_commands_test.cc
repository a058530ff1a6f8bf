// ps, stop, console and gc: on VMs that have a supervisor, and a sleeping process in the hypervisor's place.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cli_test.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"
#include "vmtest/supervisor.h"
#include "vmtest/template_store.h"
#include "vmtest/vm_handle.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::chrono_literals;

class VmCommandTest : public CliTest {
 protected:
  /// Starts a VM that this process owns.
  void start() {
    supervisor_ = SupervisorConnection::start({.name = "web", .work_dir = work_dir_, .runtime_dir = runtime_dir_});
    supervisor_->spawn({.name = "hypervisor", .argv = {"sleep", "600"}, .log_file = "hypervisor.log"});
    VmHandle vm;
    vm.id = "qemu-0";
    vm.name = "web";
    vm.driver = DriverKind::Qemu;
    vm.work_dir = work_dir_;
    vm.runtime_dir = runtime_dir_;
    vm.supervisor_pid = supervisor_->pid();
    vm.supervisor_start_time = supervisor_->start_time();
    write_file(work_dir_ / "handle.json", to_json(vm));
  }
  void TearDown() override {
    // A kept one that the test did not end.
    if (!supervisor_ && fs::exists(runtime_dir_)) supervisor_ = SupervisorConnection::connect(runtime_dir_ / "supervisor.sock");
    if (supervisor_) supervisor_->end();
  }
  json ps() { return json::parse(vmtest({"ps", "--json"}).out); }

  fs::path work_dir_ = home_ / "data" / "vms" / "web";
  fs::path runtime_dir_ = folder_.path() / "run";
  std::shared_ptr<SupervisorConnection> supervisor_;
};

/// The folder for the sockets of VMs that have their home there.
fs::path sockets_of(const fs::path& home) {
  const fs::path folder = ledger_dir() / sha256(home.lexically_normal().string()).substr(0, 8);
  ensure_private_dir(folder);
  return folder;
}

/// Makes a folder one that is not of this moment.
void age(const fs::path& folder) { fs::last_write_time(folder, fs::file_time_type::clock::now() - 1h); }

using PsTest = VmCommandTest;

TEST_F(PsTest, TellsOwnedVmsFromKeptOnes) {
  start();
  json vm = ps().at(0);
  EXPECT_EQ(vm["name"], "web");
  EXPECT_EQ(vm["state"], "running");
  EXPECT_EQ(vm["owned"], true);
  supervisor_->keep();
  vm = ps().at(0);
  EXPECT_EQ(vm["state"], "kept");
  EXPECT_EQ(vm["kept"], true);
}

TEST_F(PsTest, FailsWhereNothingSaysWhereVmsAre) {
  const ToolResult result = vmtest({"ps"}, {{"VMTEST_HOME", ""}, {"HOME", ""}, {"XDG_DATA_HOME", ""}});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_TRUE(contains(result.err, "set VMTEST_HOME")) << result.err;
}

using StopTest = VmCommandTest;

TEST_F(StopTest, KeptVmIsGone) {
  start();
  supervisor_->keep();
  supervisor_.reset();
  EXPECT_EQ(vmtest({"stop", "web"}).status.code, 0);
  EXPECT_FALSE(fs::exists(work_dir_));
  EXPECT_FALSE(fs::exists(runtime_dir_));
  EXPECT_EQ(ps(), json::array());
}

TEST_F(StopTest, VmOfARunningProcessStaysUnlessForced) {
  start();
  const ToolResult refused = vmtest({"stop", "web"});
  EXPECT_EQ(refused.status.code, 3);
  EXPECT_TRUE(contains(refused.err, "--force")) << refused.err;
  EXPECT_TRUE(fs::exists(work_dir_));
  EXPECT_EQ(vmtest({"stop", "web", "--force"}).status.code, 0);
  EXPECT_FALSE(fs::exists(work_dir_));
}

TEST_F(StopTest, SupervisorThatDoesNotAnswerIsNamed) {
  start();
  const fs::path socket = runtime_dir_ / "supervisor.sock";
  fs::rename(socket, runtime_dir_ / "elsewhere");
  const ToolResult result = vmtest({"stop", "web"});
  fs::rename(runtime_dir_ / "elsewhere", socket);
  EXPECT_EQ(result.status.code, 3);
  EXPECT_TRUE(contains(result.err, "end its process " + std::to_string(supervisor_->pid()))) << result.err;
}

class StoppedSupervisorTest : public VmCommandTest {
 protected:
  void SetUp() override {
    runtime_dir_ = sockets_of(home_) / "vm";
    start();
    age(runtime_dir_);
    age(work_dir_);
    ::kill(supervisor_->pid(), SIGSTOP);
    const Deadline deadline = Deadline::after(20s);
    while (!contains(read_file("/proc/" + std::to_string(supervisor_->pid()) + "/stat"), ") T ") && !deadline.expired())
      std::this_thread::yield();
  }
  void TearDown() override {
    ::kill(supervisor_->pid(), SIGCONT);
    VmCommandTest::TearDown();
    fs::remove_all(sockets_of(home_));
  }
};

TEST_F(StoppedSupervisorTest, GcLeavesTheSocketsOfItsVm) {
  EXPECT_EQ(json::parse(vmtest({"gc", "--json"}).out)["removed"], json::array());
  EXPECT_TRUE(fs::exists(runtime_dir_ / "supervisor.sock"));
}

class ConsoleTest : public VmCommandTest {
 protected:
  /// Attaches `vmtest console` to a console that this process plays.
  void attach() {
    start();
    const FileDescriptor listener = listen_unix(runtime_dir_ / "console.sock");
    Pipe keys = make_pipe();
    keys_ = std::move(keys.write_end);
    const FileDescriptor output = open_file(output_, O_WRONLY | O_CREAT);
    command_ = ChildProcess::start({.argv = {VMTEST_CLI, "console", "web"},
                                    .environment = {{"VMTEST_HOME", home_.string()}},
                                    .standard_input = keys.read_end.get(),
                                    .standard_output = output.get(),
                                    .standard_error = output.get()});
    ASSERT_TRUE(wait_readable(listener.get(), Deadline::after(20s)));
    guest_ = accept_connection(listener.get()).value();
  }
  [[nodiscard]] int exit_code() {
    const auto ended = command_.wait(Deadline::after(20s));
    return ended ? ended->code : -1;
  }

  fs::path output_ = folder_.path() / "output";
  FileDescriptor keys_;
  FileDescriptor guest_;
  ChildProcess command_;
};

TEST_F(ConsoleTest, ShowsWhatTheGuestPrintsUntilItEnds) {
  attach();
  write_all(guest_.get(), "login: ");
  guest_.reset();
  EXPECT_EQ(exit_code(), 0);
  EXPECT_TRUE(contains(read_file(output_), "login: \r\nthe VM has ended")) << read_file(output_);
}

TEST_F(ConsoleTest, PassesKeysOnUntilDetached) {
  attach();
  write_all(keys_.get(), "ls\n\x1d");
  EXPECT_EQ(exit_code(), 0);
  std::string typed;
  std::vector<FileDescriptor> none;
  while (receive_some(guest_.get(), typed, none)) {
  }
  EXPECT_EQ(typed, "ls\n");
  EXPECT_EQ(ps().at(0)["state"], "running");
}

TEST_F(ConsoleTest, SignalIsTold) {
  attach();
  // It is attached once it passes on what the guest prints.
  write_all(guest_.get(), "x");
  write_all(keys_.get(), "y");
  ASSERT_TRUE(wait_readable(guest_.get(), Deadline::after(20s)));
  command_.signal(SIGTERM);
  EXPECT_EQ(exit_code(), 128 + SIGTERM);
}

TEST_F(ConsoleTest, ConsoleThatIsNotThereIsAnError) {
  start();
  const ToolResult result = vmtest({"console", "web"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_TRUE(contains(result.err, "console.sock")) << result.err;
}

class CliGcTest : public CliTest {
 protected:
  /// Makes the folder of a VM whose supervisor is this process, or was one that started at another time.
  fs::path make_vm(const std::string& name, unsigned long long supervisor_start_time) {
    const auto folder = home_ / "data" / "vms" / name;
    fs::create_directories(folder);
    VmHandle vm;
    vm.id = "qemu-0";
    vm.name = name;
    vm.driver = DriverKind::Qemu;
    vm.work_dir = folder;
    vm.runtime_dir = folder_.path() / "none";
    vm.supervisor_pid = ::getpid();
    vm.supervisor_start_time = supervisor_start_time;
    write_file(folder / "handle.json", to_json(vm));
    return folder;
  }
};

TEST_F(CliGcTest, RemovesWhatADeadSupervisorLeft) {
  const auto vm = make_vm("old", 1);
  EXPECT_EQ(json::parse(vmtest({"ps", "--json"}).out)[0]["state"], "dead");
  EXPECT_EQ(vmtest({"gc"}).status.code, 0);
  EXPECT_FALSE(fs::exists(vm));
}

TEST_F(CliGcTest, DryRunRemovesNothing) {
  const auto vm = make_vm("old", 1);
  const ToolResult result = vmtest({"gc", "--dry-run"});
  EXPECT_EQ(result.out, "would remove " + vm.string() + "\n");
  EXPECT_TRUE(fs::exists(vm));
}

TEST_F(CliGcTest, LeavesAVmWhoseSupervisorLives) {
  const auto vm = make_vm("living", *process_start_time(::getpid()));
  EXPECT_EQ(vmtest({"gc"}).status.code, 0);
  EXPECT_TRUE(fs::exists(vm));
}

/// A supervisor that speaks another protocol.
class OtherSupervisor {
 public:
  explicit OtherSupervisor(const fs::path& socket) : listener_(listen_unix(socket)) {
    thread_ = std::thread([this] {
      while (const auto client = accept_connection(listener_.get())) answer(client->get());
    });
  }
  ~OtherSupervisor() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  OtherSupervisor(const OtherSupervisor&) = delete;
  OtherSupervisor& operator=(const OtherSupervisor&) = delete;

 private:
  static void answer(int client) {
    try {
      send_message(client, "{\"ok\":true,\"protocol\":99,\"version\":\"99.1\"}\n");
    } catch (const std::system_error&) {  // it only looked whether somebody listens
    }
  }

  FileDescriptor listener_;
  std::thread thread_;
};

TEST_F(CliGcTest, LeavesAVmOfAnotherVersionAndRemovesWhatIsNobodys) {
  const fs::path vm = make_vm("newer", 1);
  write_file(vm / "handle.json", R"({"format": 999})");
  const fs::path sockets = sockets_of(home_);
  fs::create_directory(sockets / "newer");
  fs::create_directory(sockets / "dead");
  { const FileDescriptor dead = listen_unix(sockets / "dead" / "supervisor.sock"); }
  {
    const OtherSupervisor supervisor(sockets / "newer" / "supervisor.sock");
    for (const fs::path& folder : {vm, sockets / "newer", sockets / "dead"}) age(folder);
    EXPECT_EQ(json::parse(vmtest({"ps", "--json"}).out)[0]["state"], "busy");
    EXPECT_TRUE(contains(vmtest({"stop", "newer"}).err, "the handle is of format 999"));
    EXPECT_EQ(json::parse(vmtest({"gc", "--json"}).out)["removed"], json::array({(sockets / "dead").string()}));
    EXPECT_TRUE(fs::exists(vm));
    EXPECT_TRUE(fs::exists(sockets / "newer"));
  }
  // Its supervisor is gone.
  const json removed = json::parse(vmtest({"gc", "--json"}).out)["removed"];
  EXPECT_EQ(removed.get<std::set<std::string>>(), (std::set<std::string>{vm.string(), (sockets / "newer").string()}));
  fs::remove_all(sockets);
}

TEST_F(CliGcTest, JsonTellsWhatWasRemoved) {
  const auto vm = make_vm("old", 1);
  fs::create_directories(home_ / "data" / "images" / ".staging-dead");
  const TemplateStore store(home_ / "cache" / "templates");
  const fs::path staging = store.make_staging("abcdef");
  write_file(staging / "memory", std::string(300000, 'm'));
  store.publish(staging, {.key = "abcdef", .image = "tiny", .spec_json = "{}"});
  const std::map<std::string, std::string> none = {{"VMTEST_TEMPLATES_MAX_MIB", "0"}};
  json report = json::parse(vmtest({"gc", "--dry-run", "--json"}, none).out);
  EXPECT_EQ(report["dry_run"], true);
  EXPECT_EQ(report["removed"], json::array({vm.string()}));
  EXPECT_EQ(report["unfinished_image_builds"], 1);
  EXPECT_EQ(report["templates"], json::array({"abcdef"}));
  EXPECT_TRUE(fs::exists(vm));
  EXPECT_EQ(store.list().size(), 1U);
  report = json::parse(vmtest({"gc", "--json"}, none).out);
  EXPECT_EQ(report["dry_run"], false);
  EXPECT_EQ(report["templates"], json::array({"abcdef"}));
  EXPECT_EQ(report["removed"], json::array({vm.string()}));
  EXPECT_EQ(report["unfinished_image_builds"], 1);
  EXPECT_EQ(report["failed"], json::array());
  EXPECT_FALSE(fs::exists(vm));
}

TEST_F(CliGcTest, WhatCannotBeRemovedIsToldAndTheRestGoes) {
  const auto busy = make_vm("busy", 1);
  const auto old = make_vm("old", 1);
  if (::unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "a mount namespace needs root";
  ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  fs::create_directory(busy / "mounted");
  ASSERT_EQ(::mount("tmpfs", (busy / "mounted").c_str(), "tmpfs", 0, nullptr), 0);
  const ToolResult result = vmtest({"gc", "--json"});
  ::umount((busy / "mounted").c_str());
  EXPECT_EQ(result.status.code, 3);
  const json report = json::parse(result.out);
  EXPECT_EQ(report["failed"].at(0)["path"], busy.string());
  EXPECT_EQ(report["removed"], json::array({old.string()}));
}

}  // namespace
}  // namespace vmtest::cli
