// What becomes of a VM whose propolis-server is broken: whose words are told, and that nothing of it runs on.

#include <gtest/gtest.h>

#include <string>

#include "propolis_driver_fixture.h"
#include "variable.h"
#include "vmtest/error.h"
#include "vmtest/propolis_driver.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

class PropolisFaultsTest : public PropolisDriverTest {};

TEST_F(PropolisFaultsTest, ProgramThatIsNotThereIsNamed) {
  ::setenv(kVariable, "/nonexistent/propolis-server", 1);
  EXPECT_EQ(driver_.unavailable_reason(), "VMTEST_PROPOLIS=/nonexistent/propolis-server is no program");
}

TEST_F(PropolisFaultsTest, ServerThatClosesInTheMiddleOfAnAnswer) {
  use_server_that("closes");
  EXPECT_SAYS(failure_to_start(machine()), "ends in the middle");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, ServerThatAnswersGarbage) {
  use_server_that("garbage");
  EXPECT_SAYS(failure_to_start(machine()), "the answer is no HTTP");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, ServerThatAnswersNoJson) {
  use_server_that("no-json");
  EXPECT_SAYS(failure_to_start(machine()), "the answer to /instance is no JSON object");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, ServerWhoseInstanceIsInAnUnknownState) {
  use_server_that("unknown-state");
  EXPECT_SAYS(failure_to_start(machine()), "in a state that is not known here: Dreaming");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

// It takes the 20 s that a server is given.
TEST_F(PropolisFaultsTest, ServerThatNeverAnswers) {
  use_server_that("silent");
  const std::string why = failure_to_start(machine());
  EXPECT_SAYS(why, "within 20 s: it does not answer");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, RefusalOfAnUnknownForm) {
  use_server_that("array");
  EXPECT_SAYS(failure_to_start(machine()), R"((500): ["the outer reason", "the inner reason"])");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, ReasonThatIsOnlyInTheServersLog) {
  use_server_that("reason-in-log");
  const std::string why = failure_to_start(machine());
  EXPECT_SAYS(why, "(500): Internal Server Error");
  EXPECT_SAYS(why, "error_message_internal: no such viona device");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, ServerThatAborts) {
  use_server_that("aborts");
  const std::string why = failure_to_start(machine());
  EXPECT_SAYS(why, "propolis-server ended with signal 6");
  EXPECT_SAYS(why, "its own last words");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, ServerThatDiesBetweenEnsureAndRun) {
  use_server_that("dies-before-run");
  const std::string why = failure_to_start(machine());
  EXPECT_SAYS(why, "does not connect the guest's console");
  EXPECT_SAYS(why, "propolis-server ended with exit code 3");
  EXPECT_SAYS(why, "its own last words");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, ServerThatDiesAsItIsToldToRun) {
  use_server_that("dies-as-it-runs");
  const std::string why = failure_to_start(machine());
  EXPECT_SAYS(why, "the instance cannot be run");
  EXPECT_SAYS(why, "propolis-server ended with exit code 3");
  EXPECT_SAYS(why, "its own last words");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, GuestThatPowersOffBeforeAnybodySawItRunHasRun) {
  use_server_that("powers-off-at-once");
  (void)driver_.start(prepare(), machine());
  EXPECT_EQ(driver_.state(*vm_), VmState::Stopped);
  const auto exit = driver_.wait_exit(*vm_, 20s);
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->orderly) << exit->how;
  EXPECT_FALSE(has_interface());
}

TEST_F(PropolisFaultsTest, ServerOfAnotherVersion) {
  use_server_that("old");
  const std::string why = failure_to_start(machine());
  EXPECT_SAYS(why, "speaks neither version 5.0.0 nor 1.0.0");
  EXPECT_SAYS(why, "server does not support this API version");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
}

TEST_F(PropolisFaultsTest, ServerWhosePortWasTakenIsStartedOnAnother) {
  use_server_that("port-taken:" + (folder_.path() / "mark").string() + ":" + VMTEST_SIMULATED_PROPOLIS);
  (void)driver_.start(prepare(), machine());
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

TEST_F(PropolisFaultsTest, StartsAgainAfterAFailure) {
  use_server_that("garbage");
  (void)failure_to_start(machine());
  (void)driver_.stop(*vm_, 0ms);
  ::setenv(kVariable, VMTEST_SIMULATED_PROPOLIS, 1);
  (void)driver_.start(*vm_, machine());
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

}  // namespace
}  // namespace vmtest
