#include "gtest_list.h"

#include <algorithm>

namespace vmtest::cli {
namespace {

constexpr std::string_view kSharedPrefix = "vmtest-shared: ";
constexpr std::string_view kTestIndent = "  ";

/// Without the comment ("  # GetParam() = 1", "  # TypeParam = int") and blanks at the end.
std::string_view strip(std::string_view line) {
  line = line.substr(0, line.find("  # "));
  const std::size_t last = line.find_last_not_of(" \t\r");
  return last == std::string_view::npos ? std::string_view{} : line.substr(0, last + 1);
}

bool has_blank(std::string_view text) { return text.find_first_of(" \t") != std::string_view::npos; }

/// GoogleTest's own rule: the suite or the test is named so, in front of or after an instantiation's prefix.
bool is_disabled(std::string_view name) {
  constexpr std::string_view kMark = "DISABLED_";
  return name.starts_with(kMark) || name.find("/DISABLED_") != std::string_view::npos;
}

}  // namespace

GtestListing parse_gtest_list(std::string_view output) {
  GtestListing listing;
  std::string suite;
  while (!output.empty()) {
    const std::size_t end = std::min(output.find('\n'), output.size());
    const std::string_view line = strip(output.substr(0, end));
    output.remove_prefix(std::min(end + 1, output.size()));
    if (line.starts_with(kSharedPrefix)) {
      listing.shared_suites.emplace_back(line.substr(kSharedPrefix.size()));
    } else if (line.starts_with(kTestIndent)) {
      const std::string_view name = line.substr(kTestIndent.size());
      if (suite.empty() || has_blank(name)) continue;
      listing.tests.push_back({suite, std::string(name), is_disabled(suite) || is_disabled(name)});
    } else if (line.ends_with('.') && !has_blank(line)) {
      suite = line.substr(0, line.size() - 1);
    }
  }
  return listing;
}

std::string TestUnit::filter() const {
  std::string text;
  for (const GtestTest& test : tests) text += (text.empty() ? "" : ":") + test.full_name();
  return text;
}

std::vector<TestUnit> make_units(const GtestListing& listing) {
  std::vector<TestUnit> units;
  for (const GtestTest& test : listing.tests) {
    if (test.disabled) continue;
    const auto& names = listing.shared_suites;
    const bool shared = std::find(names.begin(), names.end(), test.suite) != names.end();
    const auto unit =
        std::find_if(units.begin(), units.end(), [&](const TestUnit& u) { return u.shared && u.name == test.suite; });
    if (shared && unit != units.end()) {
      unit->tests.push_back(test);
    } else {
      units.push_back({shared ? test.suite : test.full_name(), {test}, shared});
    }
  }
  return units;
}

}  // namespace vmtest::cli
