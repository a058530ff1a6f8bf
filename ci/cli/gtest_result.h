#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vmtest::cli {

/// How a test ended.
enum class TestResult {
  Passed,
  Failed,
  /// The host lacks something; the reason says what.
  Skipped,
  /// A signal or an exit in mid-test ended its process.
  Crashed,
  TimedOut,
  /// Its process ended before it began.
  NotRun,
};
[[nodiscard]] std::string_view to_string(TestResult result);
/// Whether the run as a whole fails by it.
[[nodiscard]] bool is_failure(TestResult result);

/// What is known of one test.
struct GtestOutcome {
  /// "Suite.Test"
  std::string name;
  TestResult result = TestResult::NotRun;
  double seconds = 0;
  /// Why it was skipped, or its first failure.
  std::string reason;
};

/// Reads GoogleTest's JSON report (--gtest_output=json:FILE): the tests that ran. Empty when `text` is no whole report, as
/// when the process died before its end.
[[nodiscard]] std::vector<GtestOutcome> parse_gtest_json(std::string_view text);

/// Reads GoogleTest's own lines in the output of a process: tests that ended, and one that began and did not (Crashed).
/// Skipped ones have their reasons, which the JSON report of older GoogleTest lacks.
[[nodiscard]] std::vector<GtestOutcome> parse_gtest_output(std::string_view output);

}  // namespace vmtest::cli
