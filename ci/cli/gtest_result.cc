#include "gtest_result.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "vmtest/host/text.h"

namespace vmtest::cli {
namespace {

using nlohmann::json;

/// "1.234s"
double parse_seconds(const std::string& text) { return std::strtod(text.c_str(), nullptr); }

std::string message_of(const json& parts, const char* key) {
  if (!parts.is_array() || parts.empty()) return {};
  return parts.front().value(key, "");
}

GtestOutcome parse_test(const std::string& suite, const json& test) {
  GtestOutcome outcome;
  outcome.name = suite + "." + test.at("name").get<std::string>();
  outcome.seconds = parse_seconds(test.value("time", "0s"));
  if (test.contains("failures")) {
    outcome.result = TestResult::Failed;
    outcome.reason = message_of(test["failures"], "failure");
  } else if (test.value("result", "") == "SKIPPED") {
    outcome.result = TestResult::Skipped;
    if (test.contains("skipped")) outcome.reason = message_of(test["skipped"], "message");
  } else {
    outcome.result = TestResult::Passed;
  }
  return outcome;
}

/// The name behind one of GoogleTest's tags: "[       OK ] Suite.Test (12 ms)".
std::string name_after(std::string_view line, std::string_view tag) {
  line.remove_prefix(tag.size());
  return std::string(line.substr(0, line.find_first_of(" ,\r")));
}

double milliseconds_in(std::string_view line) {
  const std::size_t open = line.rfind('(');
  if (open == std::string_view::npos || line.find(" ms", open) == std::string_view::npos) return 0;
  return std::strtod(std::string(line.substr(open + 1)).c_str(), nullptr) / 1000;
}

constexpr std::string_view kRun = "[ RUN      ] ";
struct EndTag {
  std::string_view text;
  TestResult result;
};
constexpr std::array kEnds = {EndTag{"[       OK ] ", TestResult::Passed}, EndTag{"[  FAILED  ] ", TestResult::Failed},
                              EndTag{"[  SKIPPED ] ", TestResult::Skipped}};
constexpr std::string_view kSkipMark = ": Skipped";

/// Collects what the lines of a test's output tell, one after the other.
class OutputReader {
 public:
  void read(std::string_view line) {
    if (line.starts_with(kRun)) {
      outcomes_.push_back({name_after(line, kRun), TestResult::Crashed, 0, {}});
      running_ = true;
      in_reason_ = false;
      return;
    }
    if (!running_) return;
    for (const EndTag& end : kEnds) {
      if (!line.starts_with(end.text) || name_after(line, end.text) != outcomes_.back().name) continue;
      finish(end.result, line);
      return;
    }
    if (in_reason_) outcomes_.back().reason += std::string(line) + "\n";
    // "file.cc:12: Skipped", then the reason's lines.
    if (line.ends_with(kSkipMark)) in_reason_ = true;
  }
  [[nodiscard]] std::vector<GtestOutcome> take() { return std::move(outcomes_); }

 private:
  void finish(TestResult result, std::string_view line) {
    GtestOutcome& test = outcomes_.back();
    test.result = result;
    test.seconds = milliseconds_in(line);
    if (result != TestResult::Skipped) test.reason.clear();
    while (!test.reason.empty() && test.reason.back() == '\n') test.reason.pop_back();
    running_ = false;
  }

  std::vector<GtestOutcome> outcomes_;
  bool running_ = false;
  bool in_reason_ = false;
};

}  // namespace

std::string_view to_string(TestResult result) {
  switch (result) {
    case TestResult::Passed:
      return "passed";
    case TestResult::Failed:
      return "failed";
    case TestResult::Skipped:
      return "skipped";
    case TestResult::Crashed:
      return "crashed";
    case TestResult::TimedOut:
      return "timed out";
    case TestResult::NotRun:
      break;
  }
  return "not run";
}

bool is_failure(TestResult result) { return result != TestResult::Passed && result != TestResult::Skipped; }

std::vector<GtestOutcome> parse_gtest_json(std::string_view text) {
  std::vector<GtestOutcome> outcomes;
  try {
    const json report = json::parse(text);
    for (const json& suite : report.at("testsuites")) {
      for (const json& test : suite.at("testsuite")) {
        if (test.value("status", "") == "RUN") outcomes.push_back(parse_test(suite.at("name"), test));
      }
    }
  } catch (const json::exception&) {
    return {};
  }
  return outcomes;
}

std::vector<GtestOutcome> parse_gtest_output(std::string_view output) {
  OutputReader reader;
  while (!output.empty()) {
    const std::size_t end = std::min(output.find('\n'), output.size());
    reader.read(output.substr(0, end));
    output.remove_prefix(std::min(end + 1, output.size()));
  }
  return reader.take();
}

}  // namespace vmtest::cli
