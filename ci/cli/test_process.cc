#include "test_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include "vm_inventory.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;

/// From SIGTERM to SIGKILL: enough to write evidence on a busy host.
constexpr std::chrono::seconds kGrace{10};
/// From a process' end until nothing of it may be left: supervisors notice an owner's death at once, killing and removing
/// folders takes well under a second even on a busy host.
constexpr std::chrono::seconds kSettleTime{3};
constexpr std::chrono::milliseconds kSettleStep{20};
/// More output than this says no more; its end is where the failure is.
constexpr std::size_t kOutputLimit = 256 * 1024;
/// For a test that waits for its turn.
constexpr std::chrono::hours kLongestWait{24};
/// Exit code by which a test's own watchdog ends its process.
constexpr int kWatchdogExitCode = 124;

std::string environment_or(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : value;
}

fs::path gate_path(const TestProcessOptions& options) { return options.folder / "gate"; }

/// None where the temporary folder's path is too long for a socket's: tests are not started ahead then.
FileDescriptor make_gate(const TestProcessOptions& options) {
  try {
    FileDescriptor gate = listen_unix(gate_path(options));
    set_nonblocking(gate.get());
    return gate;
  } catch (const Error&) {
    return {};
  }
}

ChildProcess start(const TestProcessOptions& options, bool has_gate) {
  const FileDescriptor output = open_file(options.folder / "output", O_WRONLY | O_CREAT | O_APPEND);
  ProcessOptions process;
  process.argv = {options.program.string(), "--gtest_filter=" + options.unit.filter(),
                  "--gtest_output=json:" + (options.folder / "result.json").string(), "--gtest_color=no"};
  process.environment = {{"VMTEST_TEST_TIMEOUT", std::to_string((options.timeout - evidence_margin(options.timeout)).count())},
                         {"VMTEST_REPORT", (options.folder / "report.jsonl").string()},
                         {"VMTEST_GATE", has_gate ? gate_path(options).string() : ""}};
  if (!options.supervisor.empty())
    process.environment["VMTEST_SUPERVISOR"] = environment_or("VMTEST_SUPERVISOR", options.supervisor);
  process.standard_output = output.get();
  process.standard_error = output.get();
  return ChildProcess::start(process);
}

/// Processes of VMs that were told to live on.
std::set<pid_t> kept_processes() {
  std::set<pid_t> pids;
  for (const SupervisorStatus& status : look_at_runtime_folders().alive) {
    if (!status.kept) continue;
    pids.insert(status.pid);
    for (const auto& [name, pid] : status.processes) pids.insert(pid);
  }
  return pids;
}

std::vector<FoundProcess> find_left_behind(const std::string& marker) {
  std::vector<FoundProcess> found = scan_processes(marker);
  if (found.empty()) return found;
  const std::set<pid_t> kept = kept_processes();
  std::erase_if(found, [&](const FoundProcess& process) { return kept.count(process.pid) != 0; });
  return found;
}

/// What outlives a test for longer than cleaning up takes; killed then.
std::vector<FoundProcess> end_left_behind(const std::string& marker) {
  const Deadline deadline = Deadline::after(kSettleTime);
  std::vector<FoundProcess> found = find_left_behind(marker);
  while (!found.empty() && !deadline.expired()) {
    ::usleep(static_cast<useconds_t>(std::chrono::microseconds(kSettleStep).count()));
    found = find_left_behind(marker);
  }
  for (const FoundProcess& process : found) {
    if (process_start_time(process.pid) == process.start_time) ::kill(process.pid, SIGKILL);
  }
  return found;
}

}  // namespace

std::chrono::seconds evidence_margin(std::chrono::seconds timeout) {
  const auto margin = std::clamp<std::chrono::seconds>(timeout / 20, std::chrono::seconds(5), std::chrono::seconds(30));
  return std::min(margin, timeout - std::chrono::seconds(1));
}

TestProcess::TestProcess(TestProcessOptions options)
    : options_(std::move(options)),
      marker_("VMTEST_REPORT=" + (options_.folder / "report.jsonl").string()),
      gate_(make_gate(options_)),
      child_(start(options_, gate_.valid())),
      start_(Deadline::Clock::now()),
      deadline_(Deadline::after(options_.timeout * options_.unit.tests.size())) {}

void TestProcess::look_at_gate() {
  if (!gate_) return;
  auto connection = accept_connection(gate_.get());
  if (!connection) return;
  came_to_gate_ = true;
  waiting_ = std::move(*connection);
  if (options_.ahead) deadline_ = Deadline::after(kLongestWait);  // it did all it can do for now
  else open_gate('c');
}

void TestProcess::begin() {
  look_at_gate();  // it may have come just now
  options_.ahead = false;
  start_ = Deadline::Clock::now();
  deadline_ = Deadline::after(options_.timeout * options_.unit.tests.size());
  if (waiting_) open_gate('b');
}

void TestProcess::open_gate(char word) {
  try {
    send_message(waiting_.get(), std::string(1, word));
  } catch (const std::exception&) {  // it ended meanwhile, which its pidfd tells
  }
  waiting_.reset();
}

void TestProcess::enforce_limit() {
  if (!deadline_.expired() || ended()) return;
  ::kill(-child_.pid(), asked_ ? SIGKILL : SIGTERM);
  asked_ = true;
  deadline_ = Deadline::after(kGrace);
}

UnitResult TestProcess::finish() {
  UnitResult result;
  const ExitStatus status = child_.poll().value_or(ExitStatus{});
  ::kill(-child_.pid(), SIGKILL);  // what it left in its own group; its number is not used again while any of it lives
  result.seconds = std::chrono::duration<double>(Deadline::Clock::now() - start_).count();
  result.left_behind = end_left_behind(marker_);
  const std::string output = read_file_tail(options_.folder / "output", kOutputLimit);
  result.output = sanitize_console(output);
  result.boots = parse_boot_reports(read_file_tail(options_.folder / "report.jsonl", kOutputLimit));
  std::set<std::string> evidence;
  for (const BootReport& boot : result.boots) evidence.insert(boot.evidence);
  for (const std::string& path : evidence) {
    std::error_code ignored;
    if (!path.empty() && fs::exists(path, ignored)) result.evidence.push_back(path);
  }
  judge(result, status, output);
  return result;
}

void TestProcess::judge(UnitResult& result, const ExitStatus& status, const std::string& output) const {
  const std::vector<GtestOutcome> reported = parse_gtest_json(read_file_tail(options_.folder / "result.json", 64U << 20));
  const std::vector<GtestOutcome> seen = parse_gtest_output(output);
  const bool timed_out = asked_ || status.code == kWatchdogExitCode;
  const auto find = [](const std::vector<GtestOutcome>& outcomes, const std::string& name) {
    return std::find_if(outcomes.begin(), outcomes.end(), [&](const GtestOutcome& outcome) { return outcome.name == name; });
  };
  for (const GtestTest& test : options_.unit.tests) {
    GtestOutcome outcome{test.full_name(), TestResult::NotRun, 0, {}};
    const auto in_report = find(reported, outcome.name);
    const auto in_output = find(seen, outcome.name);
    if (in_report != reported.end()) {
      outcome = *in_report;
      if (outcome.reason.empty() && in_output != seen.end()) outcome.reason = in_output->reason;
    } else if (in_output != seen.end()) {
      outcome = *in_output;
      if (outcome.result == TestResult::Crashed && timed_out) outcome.result = TestResult::TimedOut;
    }
    outcome.reason = sanitize_console(outcome.reason);
    result.outcomes.push_back(std::move(outcome));
  }
  // A process that says all is well and then fails, or says nothing, has not passed.
  const bool told = !reported.empty();
  const bool failed =
      std::any_of(result.outcomes.begin(), result.outcomes.end(), [](const auto& o) { return is_failure(o.result); });
  if (timed_out) result.ending = fmt::format("ended after {} s, its time limit", options_.timeout.count());
  else if (status.signal != 0) result.ending = "ended by " + to_string(status);
  else if (!told) result.ending = "ended with " + to_string(status) + " before GoogleTest wrote its report";
  else if (!status.ok() && !failed) result.ending = "ended with " + to_string(status) + " though no test failed";
  if (!result.left_behind.empty()) {
    result.ending += (result.ending.empty() ? "" : "; ") + std::string("left processes behind");
  }
  if (!result.ending.empty() && !failed) {
    GtestOutcome& last = result.outcomes.back();
    last.result = timed_out ? TestResult::TimedOut : status.signal != 0 ? TestResult::Crashed : TestResult::Failed;
  }
  for (GtestOutcome& outcome : result.outcomes) {
    if (is_failure(outcome.result) && !result.ending.empty()) outcome.reason = result.ending;
  }
  // One test's time is its process' time: booting its VM and ending it are part of it.
  if (result.outcomes.size() == 1) result.outcomes.front().seconds = result.seconds;
}

}  // namespace vmtest::cli
