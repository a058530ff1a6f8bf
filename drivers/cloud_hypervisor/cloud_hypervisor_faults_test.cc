// Programs that are not there, not the right ones, or break: each a clear error, the VM's state true afterwards, and nothing
// left.

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <ostream>
#include <string>
#include <vector>

#include "cloud_hypervisor/cloud_hypervisor_driver_fixture.h"
#include "vmtest/error.h"
#include "vmtest/supervisor.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

using CloudHypervisorFaultsTest = CloudHypervisorDriverTest;
using Words = std::vector<std::string>;

/// A program that goes on for a VM only.
constexpr const char* kTellVersion = "[ \"$1\" != --version ] || { echo cloud-hypervisor v53.0; exit; }\n";

TEST_F(CloudHypervisorFaultsTest, ProgramThatIsNotThereIsNamed) {
  ::setenv(kVariable, "/nonexistent/cloud-hypervisor", 1);
  EXPECT_EQ(driver_.unavailable_reason(), "VMTEST_CLOUD_HYPERVISOR=/nonexistent/cloud-hypervisor is no program");
}

/// In both modes.
class CloudHypervisorStartFaultsTest : public CloudHypervisorDriverTest,
                                       public ::testing::WithParamInterface<CloudHypervisorDriver::Mode> {
 protected:
  CloudHypervisorStartFaultsTest() : CloudHypervisorDriverTest(GetParam()) {}
};

TEST_P(CloudHypervisorStartFaultsTest, ProgramThatEndsAtOnceIsQuoted) {
  stand_in(std::string(kTellVersion) + "echo its own complaint >&2; exit 3");
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), machine()); });
  EXPECT_NE(why.find("cannot start VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("exit code 3"), std::string::npos) << why;
  EXPECT_NE(why.find("its own complaint"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  EXPECT_EQ(left_after_destroy(), Words());
}

TEST_P(CloudHypervisorStartFaultsTest, ProgramThatIsKilledAtOnceIsTold) {
  stand_in(std::string(kTellVersion) + "kill -SEGV $$");
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), machine()); });
  EXPECT_NE(why.find("signal 11"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  EXPECT_EQ(left_after_destroy(), Words());
}

TEST_P(CloudHypervisorStartFaultsTest, KernelThatIsMissingIsTold) {
  MachineConfig config = machine();
  config.kernel = "/nonexistent/vmlinux";
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), config); });
  EXPECT_NE(why.find("Cannot open kernel file"), std::string::npos) << why;
  EXPECT_NE(why.find("No such file or directory"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  EXPECT_EQ(left_after_destroy(), Words());
}

TEST_P(CloudHypervisorStartFaultsTest, DiskThatIsMissingIsTold) {
  MachineConfig config = machine();
  config.disks = {{.path = "/nonexistent/gone.raw", .format = DiskFormat::Raw, .id = "root"}};
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), config); });
  EXPECT_NE(why.find("Cannot open disk path"), std::string::npos) << why;
  EXPECT_NE(why.find("No such file or directory"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  EXPECT_EQ(left_after_destroy(), Words());
}

TEST_P(CloudHypervisorStartFaultsTest, VmKilledFromOutsideIsFailed) {
  (void)driver_.start(prepare(), machine());
  ::kill(SupervisorConnection::connect(vm_->supervisor_socket())->status().processes.at("cloud-hypervisor"), SIGKILL);
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_NE(exit->how.find("Cloud Hypervisor ended with signal 9"), std::string::npos) << exit->how;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  EXPECT_THROW((void)driver_.suspend(*vm_), Error);
  EXPECT_THROW((void)driver_.start(*vm_, machine()), Error);
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  EXPECT_EQ(left_after_destroy(), Words());
}

INSTANTIATE_TEST_SUITE_P(Modes, CloudHypervisorStartFaultsTest,
                         ::testing::Values(CloudHypervisorDriver::Mode::Api, CloudHypervisorDriver::Mode::CommandLine),
                         [](const auto& one) { return one.param == CloudHypervisorDriver::Mode::Api ? "Api" : "CommandLine"; });

/// By the command line nobody can be asked: its events are all that is heard of it.
class CloudHypervisorCommandLineFaultsTest : public CloudHypervisorDriverTest {
 protected:
  CloudHypervisorCommandLineFaultsTest() : CloudHypervisorDriverTest(CloudHypervisorDriver::Mode::CommandLine) {}
};

TEST_F(CloudHypervisorCommandLineFaultsTest, ProgramThatNeverGetsTheGuestGoingIsGivenUp) {
  stand_in(std::string(kTellVersion) + "echo still looking for the guest >&2; exec sleep 600");
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), machine()); });
  EXPECT_NE(why.find("Cloud Hypervisor was not up within 60 s, after it said:\n  still looking for the guest"), std::string::npos)
      << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  EXPECT_EQ(left_after_destroy(), Words());
}

TEST_F(CloudHypervisorCommandLineFaultsTest, ProgramThatDoesNotTellItsVersionIsNotStarted) {
  stand_in("echo no version today >&2; exit 4");
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), machine()); });
  EXPECT_NE(why.find("no version today"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
  EXPECT_EQ(left_after_destroy(), Words());
}

TEST_F(CloudHypervisorCommandLineFaultsTest, PathThatNoArgumentCanHoldIsRefused) {
  MachineConfig odd = machine();
  odd.disks = {{.path = "/no/\xff/text.raw", .format = DiskFormat::Raw, .id = "root"}};
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), odd); });
  EXPECT_NE(why.find("which takes UTF-8 without NUL bytes"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
  EXPECT_EQ(left_after_destroy(), Words());
}

struct VersionCase {
  CloudHypervisorDriver::Mode mode;
  /// By the API it is asked when it runs already.
  VmState after;
};

void PrintTo(const VersionCase& one, std::ostream* out) {
  *out << (one.mode == CloudHypervisorDriver::Mode::Api ? "by the API" : "by the command line");
}

class CloudHypervisorVersionTest : public CloudHypervisorDriverTest, public ::testing::WithParamInterface<VersionCase> {
 protected:
  CloudHypervisorVersionTest() : CloudHypervisorDriverTest(GetParam().mode) {}
};

TEST_P(CloudHypervisorVersionTest, OldOneIsRefused) {
  const std::string why = failure_with("version");
  EXPECT_NE(why.find("Cloud Hypervisor v48.0.0 is too old: disks are told their format since v51"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), GetParam().after);
  EXPECT_EQ(left_after_destroy(), Words());
}

TEST_P(CloudHypervisorVersionTest, OneThatIsNoneIsQuoted) {
  const std::string why = failure_with("no-version");
  EXPECT_NE(why.find("\"nightly\", which is none"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), GetParam().after);
}

INSTANTIATE_TEST_SUITE_P(Modes, CloudHypervisorVersionTest,
                         ::testing::Values(VersionCase{CloudHypervisorDriver::Mode::Api, VmState::Failed},
                                           VersionCase{CloudHypervisorDriver::Mode::CommandLine, VmState::Prepared}),
                         [](const auto& one) {
                           return one.param.mode == CloudHypervisorDriver::Mode::Api ? "Api" : "CommandLine";
                         });

TEST_F(CloudHypervisorFaultsTest, ServerThatNeverAnswersIsGivenUp) {
  const std::string why = failure_with("silence");
  EXPECT_NE(why.find(": no whole answer in time"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(CloudHypervisorFaultsTest, AnswerThatIsGarbageIsAnError) {
  const std::string why = failure_with("garbage");
  EXPECT_NE(why.find("vm.create to "), std::string::npos) << why;
  EXPECT_NE(why.find("the answer is no HTTP, or ends in the middle"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(CloudHypervisorFaultsTest, AnswerThatIsCutShortIsAnError) {
  const std::string why = failure_with("cut-short");
  EXPECT_NE(why.find("the answer is no HTTP, or ends in the middle"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(CloudHypervisorFaultsTest, ReasonsOfARefusalAreQuoted) {
  const std::string why = failure_with("errors");
  EXPECT_NE(why.find("refuses vm.boot (500): Error from API: The VM could not boot: Cannot load the kernel"), std::string::npos)
      << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(CloudHypervisorFaultsTest, RefusalOfAnotherFormIsQuoted) {
  const std::string why = failure_with("other-error");
  EXPECT_NE(why.find("refuses vm.boot (500): {\"error\": \"of its own kind\"}"), std::string::npos) << why;
}

TEST_F(CloudHypervisorFaultsTest, DeathBetweenCreateAndBootIsToldInItsLastWords) {
  const std::string why = failure_with("dies-before-boot");
  EXPECT_NE(why.find("exit code 9"), std::string::npos) << why;
  EXPECT_NE(why.find("the last words"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  driver_.destroy(*vm_);
  EXPECT_EQ(driver_.state(*vm_), VmState::Destroyed);
  EXPECT_FALSE(fs::exists(vm_->work_dir));
  EXPECT_FALSE(fs::exists(vm_->runtime_dir));
}

TEST_F(CloudHypervisorFaultsTest, VmThatDoesNotRunAfterItsBootIsAnError) {
  const std::string why = failure_with("not-running");
  EXPECT_NE(why.find("its VM is starting"), std::string::npos) << why;
}

TEST_F(CloudHypervisorFaultsTest, OneThatMakesNoSenseAfterItsStartIsStoppedInTime) {
  start_with("garbage-later");
  const std::string why = failure_of([&] { (void)driver_.state(*vm_); });
  EXPECT_NE(why.find("Cloud Hypervisor runs, but does not tell the state of VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("the answer is no HTTP, or ends in the middle"), std::string::npos) << why;
  const auto begin = std::chrono::steady_clock::now();
  (void)driver_.stop(*vm_, 500ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 500ms + 1s);
  EXPECT_EQ(driver_.state(*vm_), VmState::Stopped);
}

TEST_F(CloudHypervisorFaultsTest, OneWhoseSocketIsGoneIsStoppedByAnyone) {
  start_with("garbage-later");
  fs::remove(vm_->runtime_dir / "api.sock");
  CloudHypervisorDriver other;
  (void)other.stop(*vm_, 500ms);
  EXPECT_EQ(driver_.state(*vm_), VmState::Stopped);
}

TEST_F(CloudHypervisorFaultsTest, SecondVmOfANameIsRefusedAndTheFirstStays) {
  (void)driver_.start(prepare(), machine());
  const std::string why = failure_of([&] { (void)driver_.prepare(request()); });
  EXPECT_NE(why.find("probe"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

TEST_F(CloudHypervisorFaultsTest, PathThatIsNoTextOfJsonIsAnError) {
  MachineConfig odd = machine();
  odd.disks = {{.path = "/no/\xff/text.raw", .format = DiskFormat::Raw, .id = "root"}};
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), odd); });
  EXPECT_NE(why.find("cannot start VM \"probe\""), std::string::npos) << why;
  EXPECT_NE(why.find("UTF-8"), std::string::npos) << why;
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

}  // namespace
}  // namespace vmtest
