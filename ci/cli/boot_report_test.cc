#include "boot_report.h"

#include <gtest/gtest.h>

namespace vmtest::cli {
namespace {

constexpr const char* kLine =
    R"({"test": "Hello.Works", "vm": "hello-1", "phases": {"total": 3.5, "ssh": 0.5, "clone": 0.25, "admission": 0.001},)"
    R"( "accelerator": "tcg", "accelerator_reason": "no /dev/kvm", "evidence": "/state/e", "unknown": [1]})";

TEST(BootReportTest, ReadsALine) {
  const auto reports = parse_boot_reports(std::string(kLine) + "\n");
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].test, "Hello.Works");
  EXPECT_EQ(reports[0].vm, "hello-1");
  EXPECT_EQ(reports[0].accelerator, "tcg");
  EXPECT_EQ(reports[0].accelerator_reason, "no /dev/kvm");
  EXPECT_EQ(reports[0].evidence, "/state/e");
  EXPECT_DOUBLE_EQ(reports[0].total, 3.5);
}

TEST(BootReportTest, ShowsPhasesInTheOrderOfABoot) {
  EXPECT_EQ(format_phases(parse_boot_reports(kLine).at(0)), "clone 0.25 s, ssh 0.50 s, total 3.50 s");
}

TEST(BootReportTest, ShowsAWaitForOtherTests) {
  const auto reports = parse_boot_reports(R"({"phases": {"admission": 2, "total": 2}})");
  EXPECT_EQ(format_phases(reports.at(0)), "admission 2.00 s, total 2.00 s");
}

TEST(BootReportTest, PassesOverBrokenLines) {
  const auto reports = parse_boot_reports(std::string(kLine) + "\n{\"test\": \"cut o\n[1]\n\n" + kLine);
  EXPECT_EQ(reports.size(), 2U);
}

TEST(BootReportTest, CountsForksAndBootsWithTheirReasons) {
  const std::string fork = R"({"phases": {"total": 1, "ssh": 1}, "forked": true})";
  const std::string boot = R"({"phases": {"total": 1, "ssh": 1}, "forked": false, "boot_reason": "to become a template"})";
  const std::string announced = R"({"vm": "not ready yet"})";
  EXPECT_EQ(count_forks(parse_boot_reports(fork + "\n" + announced + "\n" + boot + "\n" + fork + "\n")),
            "2 continued from a template, 1 booted: to become a template (1)");
  EXPECT_EQ(count_forks(parse_boot_reports(boot + "\n" + boot)), "2 booted: to become a template (2)");
  EXPECT_EQ(count_forks({}), "");
}

TEST(BootReportTest, ToleratesWrongTypes) {
  const auto reports = parse_boot_reports(R"({"test": 1, "phases": [], "vm": null})");
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_TRUE(reports[0].test.empty());
}

}  // namespace
}  // namespace vmtest::cli
