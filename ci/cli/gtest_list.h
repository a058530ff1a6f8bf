#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vmtest::cli {

/// A test of a GoogleTest program.
struct GtestTest {
  std::string suite;
  std::string name;
  /// GoogleTest does not run it (DISABLED_ in front of a name).
  bool disabled = false;

  [[nodiscard]] std::string full_name() const { return suite + "." + name; }
  bool operator==(const GtestTest&) const = default;
};

/// What a program said to --gtest_list_tests.
struct GtestListing {
  std::vector<GtestTest> tests;
  /// Suites whose tests share a VM and so a process; told by lines "vmtest-shared: Suite".
  std::vector<std::string> shared_suites;
};

/// Reads the output of --gtest_list_tests. Lines that are neither suite nor test (a main's own words) are passed over.
[[nodiscard]] GtestListing parse_gtest_list(std::string_view output);

/// Tests that run in one process.
struct TestUnit {
  /// The test's name, or the suite's.
  std::string name;
  std::vector<GtestTest> tests;
  bool shared = false;

  /// For --gtest_filter.
  [[nodiscard]] std::string filter() const;
};

/// One unit per test, and one per shared suite, in the program's order. Disabled tests are in no unit.
[[nodiscard]] std::vector<TestUnit> make_units(const GtestListing& listing);

}  // namespace vmtest::cli
