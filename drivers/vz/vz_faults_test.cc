// Helpers that are not there, not the right ones, or break: each a clear error, and the VM's state true afterwards.

#include <gtest/gtest.h>

#include <cstdlib>

#include "vz/vz_driver_fixture.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

using VzFaultsTest = VzDriverTest;

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
