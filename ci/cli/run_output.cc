#include "run_output.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "vmtest/host/text.h"

namespace vmtest::cli {
namespace {

using nlohmann::json;

std::string one_line(const std::string& text) {
  std::string line = text;
  for (char& c : line) c = c == '\n' ? ' ' : c;
  return line;
}

std::string_view tag(TestResult result) {
  switch (result) {
    case TestResult::Passed:
      return "PASS";
    case TestResult::Skipped:
      return "SKIP";
    case TestResult::Crashed:
      return "CRASH";
    case TestResult::TimedOut:
      return "TIME";
    case TestResult::NotRun:
      return "NOT RUN";
    case TestResult::Failed:
      break;
  }
  return "FAIL";
}

json to_json(const BootReport& boot) {
  json phases = json::object();
  for (const auto& [phase, seconds] : boot.phases) phases[phase] = seconds;
  phases["total"] = boot.total;
  return {{"vm", boot.vm},
          {"phases", phases},
          {"accelerator", boot.accelerator},
          {"accelerator_reason", boot.accelerator_reason},
          {"forked", boot.forked},
          {"boot_reason", boot.boot_reason}};
}

}  // namespace

RunCounts count(const std::vector<RunRecord>& records) {
  RunCounts counts;
  for (const RunRecord& record : records) {
    for (const GtestOutcome& outcome : record.result.outcomes) {
      if (outcome.result == TestResult::Passed) ++counts.passed;
      else if (outcome.result == TestResult::Skipped) ++counts.skipped;
      else ++counts.failed;
    }
  }
  return counts;
}

void RunPrinter::show(const RunRecord& record) {
  const UnitResult& result = record.result;
  for (const BootReport& boot : result.boots) {
    const std::string& accelerator = boot.accelerator_reason.empty() ? boot.accelerator : boot.accelerator_reason;
    if (accelerator.empty() || accelerator == accelerator_) continue;
    accelerator_ = accelerator;
    fmt::print(stream_, "accelerator: {}\n", sanitize_console(accelerator));
  }
  for (const GtestOutcome& outcome : result.outcomes) show_test(outcome);
  for (const BootReport& boot : result.boots) {
    if (!boot.phases.empty()) fmt::print(stream_, "        {}: {}\n", sanitize_console(boot.vm), format_phases(boot));
  }
  bool failed = false;
  for (const GtestOutcome& outcome : result.outcomes) failed = failed || is_failure(outcome.result);
  if (failed) show_failure(result);
  std::fflush(stream_);
}

void RunPrinter::show_test(const GtestOutcome& outcome) {
  ++shown_;
  const std::string reason =
      outcome.reason.empty() || outcome.result == TestResult::Failed ? "" : "  " + one_line(outcome.reason);
  fmt::print(stream_, "[{:>3}/{}] {:<7} {:<50} {:8.2f} s{}\n", shown_, total_, tag(outcome.result), outcome.name, outcome.seconds,
             reason);
}

void RunPrinter::show_failure(const UnitResult& result) {
  fmt::print(stream_, "{}", indent(result.output, "    | "));
  if (!result.output.empty() && result.output.back() != '\n') fmt::print(stream_, "\n");
  if (!result.ending.empty()) fmt::print(stream_, "        the test process {}\n", result.ending);
  for (const FoundProcess& process : result.left_behind) {
    fmt::print(stream_, "        left behind and killed: {} {}\n", process.pid, process.command);
  }
  for (const std::string& path : result.evidence) fmt::print(stream_, "        evidence: {}\n", path);
}

void RunPrinter::show_summary(const std::vector<RunRecord>& records, std::size_t disabled, double seconds) {
  const RunCounts counts = count(records);
  fmt::print(stream_, "\n{} tests in {:.1f} s: {} passed, {} failed, {} skipped", counts.total(), seconds, counts.passed,
             counts.failed, counts.skipped);
  if (disabled > 0) fmt::print(stream_, ", {} disabled", disabled);
  fmt::print(stream_, "\n");
  std::vector<BootReport> vms;
  for (const RunRecord& record : records) vms.insert(vms.end(), record.result.boots.begin(), record.result.boots.end());
  if (const std::string forks = count_forks(vms); !forks.empty()) fmt::print(stream_, "VMs: {}\n", sanitize_console(forks));
  for (const RunRecord& record : records) {
    for (const GtestOutcome& outcome : record.result.outcomes) {
      if (outcome.result == TestResult::Passed) continue;
      fmt::print(stream_, "  {:<9} {}  ({}){}\n", to_string(outcome.result), outcome.name, record.program.filename().string(),
                 outcome.reason.empty() ? "" : "\n            " + one_line(outcome.reason));
    }
  }
  std::fflush(stream_);
}

std::string run_json(const std::vector<RunRecord>& records, std::size_t disabled, double seconds) {
  const RunCounts counts = count(records);
  json tests = json::array();
  for (const RunRecord& record : records) {
    json boots = json::array();
    for (const BootReport& boot : record.result.boots) {
      if (!boot.phases.empty()) boots.push_back(to_json(boot));
    }
    for (const GtestOutcome& outcome : record.result.outcomes) {
      json test = {{"name", outcome.name},       {"program", record.program.string()}, {"result", to_string(outcome.result)},
                   {"seconds", outcome.seconds}, {"reason", outcome.reason},           {"vms", boots}};
      if (is_failure(outcome.result)) {
        test["output"] = record.result.output;
        test["evidence"] = record.result.evidence;
      }
      tests.push_back(std::move(test));
    }
  }
  const json run = {{"passed", counts.passed}, {"failed", counts.failed}, {"skipped", counts.skipped},
                    {"disabled", disabled},    {"seconds", seconds},      {"tests", tests}};
  return run.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace vmtest::cli
