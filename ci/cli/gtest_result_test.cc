#include "gtest_result.h"

#include <gtest/gtest.h>

namespace vmtest::cli {
namespace {

constexpr const char* kJson = R"({"tests": 4, "testsuites": [{"name": "S", "testsuite": [
  {"name": "Passes", "status": "RUN", "result": "COMPLETED", "time": "1.25s"},
  {"name": "Fails", "status": "RUN", "result": "COMPLETED", "time": "0s", "failures": [{"failure": "x.cc:1\nFailure", "type": ""}]},
  {"name": "Skips", "status": "RUN", "result": "SKIPPED", "time": "0s"},
  {"name": "Other", "status": "NOTRUN", "result": "SUPPRESSED", "time": "0s"}]}]})";

TEST(GtestJsonTest, ReadsTestsThatRan) {
  const auto outcomes = parse_gtest_json(kJson);
  ASSERT_EQ(outcomes.size(), 3U);
  EXPECT_EQ(outcomes[0].name, "S.Passes");
  EXPECT_EQ(outcomes[0].result, TestResult::Passed);
  EXPECT_DOUBLE_EQ(outcomes[0].seconds, 1.25);
  EXPECT_EQ(outcomes[1].result, TestResult::Failed);
  EXPECT_EQ(outcomes[1].reason, "x.cc:1\nFailure");
  EXPECT_EQ(outcomes[2].result, TestResult::Skipped);
}

TEST(GtestJsonTest, ReadsReasonsOfNewerGoogleTest) {
  const auto outcomes = parse_gtest_json(
      R"({"testsuites": [{"name": "S", "testsuite": [{"name": "T", "status": "RUN", "result": "SKIPPED",
          "skipped": [{"message": "no kvm"}]}]}]})");
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].reason, "no kvm");
}

TEST(GtestJsonTest, CutReportSaysNothing) { EXPECT_TRUE(parse_gtest_json(std::string(kJson).substr(0, 200)).empty()); }

TEST(GtestJsonTest, ForeignJsonSaysNothing) { EXPECT_TRUE(parse_gtest_json(R"({"testsuites": [{"name": 1}]})").empty()); }

TEST(GtestOutputTest, TellsReasonOfASkip) {
  const auto outcomes = parse_gtest_output(
      "[ RUN      ] S.T\nx.cc:7: Skipped\nno image\nbuild it\n\n[  SKIPPED ] S.T (2 ms)\n[  SKIPPED ] 1 test, listed below:\n");
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].result, TestResult::Skipped);
  EXPECT_EQ(outcomes[0].reason, "no image\nbuild it");
}

TEST(GtestOutputTest, TellsWhichTestDied) {
  const auto outcomes = parse_gtest_output("[ RUN      ] S.A\n[       OK ] S.A (1500 ms)\n[ RUN      ] S.B\nbefore the crash\n");
  ASSERT_EQ(outcomes.size(), 2U);
  EXPECT_EQ(outcomes[0].result, TestResult::Passed);
  EXPECT_DOUBLE_EQ(outcomes[0].seconds, 1.5);
  EXPECT_EQ(outcomes[1].name, "S.B");
  EXPECT_EQ(outcomes[1].result, TestResult::Crashed);
}

TEST(GtestOutputTest, ReadsParameterisedFailures) {
  const auto outcomes = parse_gtest_output("[ RUN      ] All/S.T/0\n[  FAILED  ] All/S.T/0, where GetParam() = 1 (3 ms)\n");
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].result, TestResult::Failed);
}

TEST(GtestOutputTest, PassesOverTagsInATestsOwnOutput) {
  const auto outcomes = parse_gtest_output("[ RUN      ] S.T\n[  FAILED  ] Guest.Test (3 ms)\n[       OK ] S.T (4 ms)\n");
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].result, TestResult::Passed);
}

}  // namespace
}  // namespace vmtest::cli
