// Shared folders and a TPM: what runs beside a hypervisor for a guest.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iomanip>
#include <sstream>
#include <string>
#include <vector>

#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/supervisor.h"
#include "vmtest/vm_test.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class SharedFolderTest : public VmTest {
 protected:
  SharedFolderTest() {
    for (const char* name : {"both,ways", "source", "later"}) fs::create_directory(folder_.path() / name);
    write_file(source() / "word", "from the host\n");
  }
  VmSpec spec() const override {
    return {.shared_folders = {{.host_path = both_ways(), .tag = "both", .mount_point = "/srv/both"},
                               {.host_path = source(), .tag = "source", .read_only = true, .mount_point = "/srv/source"},
                               {.host_path = folder_.path() / "later", .tag = "later"}},
            .setup_commands = {"cat /srv/source/word > /root/at-setup"}};
  }
  fs::path both_ways() const { return folder_.path() / "both,ways"; }
  fs::path source() const { return folder_.path() / "source"; }

  TemporaryDirectory folder_;
};

TEST_F(SharedFolderTest, FilesGoBothWays) {
  EXPECT_EQ(vm().run("cat /root/at-setup").out, "from the host\n") << "it is mounted before setup commands run";
  vm().run("mkdir /srv/both/folder && echo from the guest > /srv/both/folder/word");
  EXPECT_EQ(read_file(both_ways() / "folder" / "word"), "from the guest\n");
  write_file(both_ways() / "late", "came later\n");
  EXPECT_EQ(vm().run("cat /srv/both/late").out, "came later\n");
  EXPECT_FALSE(vm().forked());
  EXPECT_NE(vm().boot_reason(), "");
}

TEST_F(SharedFolderTest, ReadOnlyIsTheHostsWord) {
  EXPECT_EQ(vm().run("cat /srv/source/word").out, "from the host\n");
  EXPECT_FALSE(vm().exec("echo x > /srv/source/word").ok());
  // What the guest mounts it as does not matter: anew, since a second mount would share what the first one made read-only.
  vm().run("umount /srv/source && mkdir /root/again && mount -t virtiofs -o rw source /root/again");
  EXPECT_TRUE(vm().exec("grep ' /root/again virtiofs rw' /proc/mounts").ok());
  EXPECT_FALSE(vm().exec("echo x > /root/again/new").ok());
  EXPECT_FALSE(vm().exec("echo x > /root/again/word").ok());
  EXPECT_FALSE(vm().exec("rm -f /root/again/word").ok());
  EXPECT_EQ(read_file(source() / "word"), "from the host\n");
  EXPECT_FALSE(fs::exists(source() / "new"));
}

TEST_F(SharedFolderTest, OneWithoutAMountPointIsMountedByItsTag) {
  EXPECT_EQ(vm().run("grep -c virtiofs /proc/mounts").out, "2\n");
  vm().run("mkdir /root/later && mount -t virtiofs later /root/later && echo here > /root/later/file");
  EXPECT_EQ(read_file(folder_.path() / "later" / "file"), "here\n");
}

TEST_F(SharedFolderTest, LinksInItAreFollowedInTheGuest) {
  fs::create_symlink("/etc", both_ways() / "link");
  EXPECT_EQ(vm().run("cat /srv/both/link/os-release").out, vm().run("cat /etc/os-release").out);
}

TEST_F(SharedFolderTest, StartAgainServesTheFolderAnew) {
  vm().power_off();
  vm().start();
  vm().run("mkdir -p /root/again && mount -t virtiofs both /root/again && echo again > /root/again/file");
  EXPECT_EQ(read_file(both_ways() / "file"), "again\n");
}

TEST_F(SharedFolderTest, EndOfItsServerIsTold) {
  const auto processes = SupervisorConnection::connect(vm().handle().supervisor_socket())->status().processes;
  ASSERT_EQ(::kill(processes.at("virtiofsd-both"), SIGKILL), 0);
  try {
    vm().wait_until([] { return false; }, 60s, "what never comes");
    FAIL() << "the guest went on";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("virtiofsd-both ended with signal 9"), std::string::npos) << error.what();
  }
  EXPECT_EQ(vm().state(), VmState::Failed);
}

/// TPM2_GetRandom of 8 bytes: tag TPM_ST_NO_SESSIONS, size 12, command code 0x17b.
constexpr const char* kGetRandom = "80010000000c0000017b0008";

class TpmTest : public VmTest {
 protected:
  VmSpec spec() const override { return {.tpm = true}; }
  /// Has the TPM execute a command and returns its answer, both in hex.
  std::string answer(const std::string& command) {
    std::ostringstream escapes;
    for (std::size_t i = 0; i < command.size(); i += 2) {
      escapes << "\\" << std::oct << std::setw(3) << std::setfill('0') << std::stoi(command.substr(i, 2), nullptr, 16);
    }
    // One descriptor, since the device answers who asked.
    return vm()
        .run("exec 3<>/dev/tpm0; printf '" + escapes.str() +
             "' >&3; dd bs=4096 count=1 <&3 2> /dev/null | od -An -v -tx1 | "
             "tr -d ' \\n'")
        .out;
  }
};

TEST_F(TpmTest, DrawsRandomNumbers) {
  EXPECT_EQ(vm().run("cat /sys/class/tpm/tpm0/tpm_version_major").out, "2\n");
  // The answer: the tag, size 20, success, 8 bytes.
  const std::string first = answer(kGetRandom);
  EXPECT_EQ(first.substr(0, 24), "800100000014000000000008") << first;
  EXPECT_EQ(first.size(), 40U);
  EXPECT_NE(answer(kGetRandom), first);
}

TEST_F(TpmTest, KeepsItsStateOverAPowerOff) {
  const auto code = [](const std::string& answer) { return answer.substr(12, 8); };
  // TPM2_NV_ReadPublic, and TPM2_NV_DefineSpace of 8 bytes, by its owner, whose password is empty.
  const std::string read_public = "80010000000e0000016901500001";
  ASSERT_NE(code(answer(read_public)), "00000000");
  ASSERT_EQ(code(answer("80020000002d0000012a40000001"
                        "00000009400000090000000000"
                        "0000000e01500001000b0202000200000008")),
            "00000000");
  vm().shutdown();
  vm().start();
  EXPECT_EQ(code(answer(read_public)), "00000000");
}

TEST_F(TpmTest, IsNoneWithoutTheWish) {
  VmSpec spec;
  spec.network = this->spec().network;
  Vm other = Vm::boot(spec);
  EXPECT_FALSE(other.exec("test -e /dev/tpm0").ok());
}

class RebootTest : public TpmTest {
 protected:
  VmSpec spec() const override {
    return {.shared_folders = {{.host_path = folder_.path(), .tag = "src", .mount_point = "/srv/src"}}, .tpm = true};
  }

  TemporaryDirectory folder_;
};

TEST_F(RebootTest, FindsFolderAndTpmAgain) {
  vm().run("echo before > /srv/src/before");
  vm().reboot();
  vm().run("echo after > /srv/src/after");
  EXPECT_EQ(read_file(folder_.path() / "before"), "before\n");
  EXPECT_EQ(read_file(folder_.path() / "after"), "after\n");
  EXPECT_EQ(answer(kGetRandom).size(), 40U);
}

/// Set in the process that is to be killed.
constexpr const char* kVictim = "VMTEST_COMPANIONS_VICTIM";

[[noreturn]] void be_the_victim(const fs::path& folder) {
  try {
    const Vm vm = Vm::boot({.shared_folders = {{.host_path = folder, .tag = "src"}}, .tpm = true});
    const auto processes = SupervisorConnection::connect(vm.handle().supervisor_socket())->status().processes;
    std::string text;
    for (const auto& [name, pid] : processes) text += std::to_string(pid) + "\n";
    write_file(folder / "pids.new", text);
    fs::rename(folder / "pids.new", folder / "pids");
    for (;;) ::pause();
  } catch (const std::exception& error) {
    write_file(folder / "error", error.what());
  }
  ::_exit(1);
}

class KilledTestTest : public TpmTest {};

TEST_F(KilledTestTest, LeavesNoCompanion) {  // its fixture skips where there is no image or TPM
  const TemporaryDirectory folder;
  ProcessOptions options;
  options.argv = {fs::read_symlink("/proc/self/exe").string()};
  options.environment = {{kVictim, folder.path().string()}};
  ChildProcess victim = ChildProcess::start(options);
  ASSERT_TRUE(testing::wait_until([&] { return fs::exists(folder.path() / "pids") || fs::exists(folder.path() / "error"); },
                                  Deadline::after(120s)));
  ASSERT_FALSE(fs::exists(folder.path() / "error")) << read_file(folder.path() / "error");
  std::istringstream pids(read_file(folder.path() / "pids"));
  std::vector<pid_t> running;
  for (pid_t pid = 0; pids >> pid;) running.push_back(pid);
  ASSERT_EQ(running.size(), 3U);
  ::kill(victim.pid(), SIGKILL);
  (void)victim.wait(Deadline::after(5s));
  const auto gone = [](pid_t pid) { return !process_start_time(pid); };
  EXPECT_TRUE(testing::wait_until([&] { return std::all_of(running.begin(), running.end(), gone); }, Deadline::after(2s)));
}

TEST(UnfitSpecTest, VmThatMustForkIsRefused) {
  const char* before = std::getenv("VMTEST_FORK");
  const std::string mode = before != nullptr ? before : "";
  ::setenv("VMTEST_FORK", "require", 1);
  std::string why;
  try {
    (void)Vm::boot({.tpm = true});
  } catch (const Unsupported& error) {
    why = error.what();
    ::setenv("VMTEST_FORK", mode.c_str(), 1);
    GTEST_SKIP() << why;
  } catch (const Error& error) {
    why = error.what();
  }
  ::setenv("VMTEST_FORK", mode.c_str(), 1);
  EXPECT_NE(why.find("VMTEST_FORK=require demands"), std::string::npos) << why;
}

}  // namespace
}  // namespace vmtest

int main(int argc, char** argv) {
  if (const char* folder = std::getenv("VMTEST_COMPANIONS_VICTIM")) vmtest::be_the_victim(folder);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
