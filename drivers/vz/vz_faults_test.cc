// Helpers that are not there, not the right ones, or break: each a clear error, and the VM's state true afterwards.

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vz/vz_driver_fixture.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::wait_until;

/// Whatever happened, nothing of the VM is there once it is destroyed.
class VzFaultsTest : public VzDriverTest {
 protected:
  void TearDown() override {
    const std::optional<VmHandle> vm = vm_;
    VzDriverTest::TearDown();
    EXPECT_FALSE(vm && fs::exists(vm->work_dir)) << vm->work_dir;
    EXPECT_FALSE(vm && fs::exists(vm->runtime_dir)) << vm->runtime_dir;
  }

  /// What a start says of a machine with that disk alone.
  std::string failure_with_disk(const fs::path& path) {
    MachineConfig other = machine();
    other.disks = {{.path = path, .format = DiskFormat::Raw, .id = "root"}};
    prepare();
    return failure_of([&] { (void)driver_.start(*vm_, other); });
  }
};

/// What a process has started, whichever of its threads did.
std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> children;
  for (const auto& thread : fs::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    std::ifstream pids(thread.path() / "children");
    for (pid_t child = 0; pids >> child;) children.push_back(child);
  }
  return children;
}

TEST_F(VzFaultsTest, HelperThatIsNotThereIsNamed) {
  ::setenv(kVariable, "/nonexistent/helper", 1);
  EXPECT_EQ(driver_.unavailable_reason(), "VMTEST_VZ_HELPER names /nonexistent/helper, which cannot be executed");
  ::unsetenv(kVariable);
  const auto why = driver_.unavailable_reason();
  ASSERT_TRUE(why);
  EXPECT_NE(why->find("Virtualization.framework is macOS'; this is Linux"), std::string::npos) << *why;
}

TEST_F(VzFaultsTest, HelperThatDoesNotKnowItsHostIsQuoted) {
  const std::string why = failure_with("no-capabilities");
  EXPECT_NE(why.find("it does not know itself"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
  EXPECT_NE(driver_.unavailable_reason(), std::nullopt);
}

TEST_F(VzFaultsTest, HelperOfAnotherVersionIsRefused) {
  const std::string why = failure_with("version");
  EXPECT_NE(why.find("version 9 of its API, this driver version 1"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, HelperThatNeverAnswersIsGivenUp) {
  const std::string why = failure_with("silence");
  EXPECT_NE(why.find("vmm.ping"), std::string::npos) << why;
  EXPECT_NE(why.find(": no whole answer in time"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, AnswerThatIsCutShortIsAnError) {
  const std::string why = failure_with("cut-short");
  EXPECT_NE(why.find("cannot start VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("vm.create"), std::string::npos) << why;
  EXPECT_NE(why.find("the answer is no HTTP, or ends in the middle"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, AnswerThatIsGarbageIsAnError) {
  const std::string why = failure_with("garbage");
  EXPECT_NE(why.find("vm.create"), std::string::npos) << why;
  EXPECT_NE(why.find("the answer is no HTTP, or ends in the middle"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, ReasonsOfARefusalAreQuoted) {
  const std::string why = failure_with("errors");
  EXPECT_NE(why.find("refuses vm.boot (500): cannot boot the VM: VZErrorDomain 1: Internal virtualization error."),
            std::string::npos)
      << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, ErrorOfAnotherFormIsQuoted) {
  const std::string why = failure_with("own-error");
  EXPECT_NE(why.find("refuses vm.create (500): an error of its own kind"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, DeathBetweenCreateAndBootIsToldInItsLastWords) {
  const std::string why = failure_with("die-before-boot");
  EXPECT_NE(why.find("ended at its start with exit code 7"), std::string::npos) << why;
  EXPECT_NE(why.find("the helper's last words"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  driver_.destroy(*vm_);
  EXPECT_FALSE(fs::exists(vm_->work_dir));
  EXPECT_FALSE(fs::exists(vm_->runtime_dir));
}

TEST_F(VzFaultsTest, MissingDiskIsToldInTheFrameworksWords) {
  const std::string why = failure_with_disk(folder_.path() / "gone.raw");
  EXPECT_NE(why.find("cannot start VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("refuses vm.create (500)"), std::string::npos) << why;
  EXPECT_NE(why.find("gone.raw: VZErrorDomain 5: The disk image cannot be used. (The file does not exist.)"), std::string::npos)
      << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, DiskOfAnOddSizeIsToldInTheFrameworksWords) {
  const fs::path disk = folder_.path() / "odd.raw";
  write_file(disk, std::string(1000, '\0'));
  const std::string why = failure_with_disk(disk);
  EXPECT_NE(why.find("odd.raw: VZErrorDomain 5"), std::string::npos) << why;
  EXPECT_NE(why.find("multiple of 512 bytes"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, MissingKernelIsToldInTheFrameworksWords) {
  MachineConfig other = machine();
  other.kernel = "/nonexistent/vmlinux";
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), other); });
  EXPECT_NE(why.find("VZErrorDomain 2"), std::string::npos) << why;
  EXPECT_NE(why.find("The kernel does not exist: /nonexistent/vmlinux"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, FolderThatIsTooLongForSocketsIsRefusedAndNothingIsLeft) {
  const fs::path deep = folder_.path() / std::string(80, 'd');
  fs::create_directory(deep);
  const testing::Variable home("VMTEST_HOME", "");
  const testing::Variable runtime("XDG_RUNTIME_DIR", deep.string());
  const std::string why = failure_of([&] { prepare(); });
  EXPECT_NE(why.find("cannot prepare VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("socket path is too long"), std::string::npos) << why;
  EXPECT_NE(why.find("set XDG_RUNTIME_DIR to a shorter folder"), std::string::npos) << why;
  EXPECT_TRUE(wait_until([&] { return fs::is_empty(deep / "vmtest"); }, Deadline::after(20s)));
  EXPECT_TRUE(wait_until([&] { return !fs::exists(request().vms_dir / "probe"); }, Deadline::after(20s)));
}

TEST_F(VzFaultsTest, GuestThatTheFrameworkStopsIsToldInItsWords) {
  (void)driver_.start(prepare(), machine());
  const std::vector<pid_t> machines = children_of(helper());
  ASSERT_EQ(machines.size(), 1U);
  ::kill(machines.front(), SIGKILL);
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_EQ(exit->how.rfind("Virtualization.framework stopped the VM: VZErrorDomain 1: Internal virtualization error.", 0), 0U)
      << exit->how;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, KilledHelperIsToldBySignalAndItsGuestIsGone) {
  (void)driver_.start(prepare(), machine());
  const std::vector<pid_t> machines = children_of(helper());
  ASSERT_EQ(machines.size(), 1U);
  ::kill(helper(), SIGKILL);
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_EQ(exit->how, "the VZ helper ended with signal 9 (Killed)");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  EXPECT_TRUE(wait_until([&] { return !process_start_time(machines.front()); }, Deadline::after(20s)));
}

TEST_F(VzFaultsTest, VmThatDoesNotRunAfterItsBootIsAnError) {
  const std::string why = failure_with("never-runs");
  EXPECT_NE(why.find("its VM is stopped"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(VzFaultsTest, PathThatIsNoTextOfJsonIsAnError) {
  MachineConfig odd = machine();
  odd.disks = {{.path = "/no/\xff/text.raw", .format = DiskFormat::Raw, .id = "root"}};
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), odd); });
  EXPECT_NE(why.find("UTF-8"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
}

}  // namespace
}  // namespace vmtest
