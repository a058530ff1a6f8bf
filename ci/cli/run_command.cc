#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <list>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cli11.h"
#include "exit_codes.h"
#include "interrupt.h"
#include "run_folder.h"
#include "run_output.h"
#include "subcommand.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/ledger.h"
#include "vmtest/supervisor.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;

/// Listing runs a program's static constructors and no test.
constexpr std::chrono::seconds kListTime{60};

/// How soon a test that waits for its turn makes room for others.
constexpr std::chrono::milliseconds kGiveWayTime{100};

struct RunOptions {
  unsigned jobs = 1;
  unsigned ahead = 1;
  unsigned timeout = 300;
  std::string filter;
  std::string json;
  std::vector<std::string> programs;
};

/// A unit that waits for its turn.
struct PlannedUnit {
  fs::path program;
  TestUnit unit;
};

struct Plan {
  std::vector<PlannedUnit> units;
  std::size_t tests = 0;
  std::size_t disabled = 0;
};

Plan make_plan(const RunOptions& options) {
  Plan plan;
  for (const std::string& program : options.programs) {
    const fs::path path = fs::absolute(program);
    std::vector<std::string> argv = {path.string(), "--gtest_list_tests", "--gtest_color=no"};
    if (!options.filter.empty()) argv.push_back("--gtest_filter=" + options.filter);
    const ToolResult listed = with_context("cannot list the tests of " + program, [&] {
      return run_tool(argv, Deadline::after(kListTime), {{"VMTEST_LIST_SHARED", "1"}});
    });
    const GtestListing listing = parse_gtest_list(listed.out);
    for (TestUnit& unit : make_units(listing)) {
      plan.tests += unit.tests.size();
      plan.units.push_back({path, std::move(unit)});
    }
    for (const GtestTest& test : listing.tests) plan.disabled += test.disabled ? 1 : 0;
  }
  return plan;
}

std::filesystem::path supervisor_or_none() {
  try {
    return find_supervisor();
  } catch (const std::exception&) {  // programs may know another; those that do not will say so
    return {};
  }
}

/// Runs units side by side. An interrupt ends all that run and starts no more.
class Runner {
 public:
  Runner(const RunOptions& options, const Plan& plan, RunPrinter& printer)
      : options_(options), plan_(plan), printer_(printer), supervisor_(supervisor_or_none()) {}

  /// The signal that ended the run early, or 0.
  int run() {
    while ((next_ < plan_.units.size() || !running_.empty()) && interrupts_.signal() == 0) {
      fill();
      wait();
      collect();
      give_way();
    }
    running_.clear();  // kills what still runs
    return interrupts_.signal();
  }
  [[nodiscard]] const std::vector<RunRecord>& records() const { return records_; }

 private:
  /// Has as many tests running as may run, and the next ones get their VMs ready.
  void fill() {
    while (begun() < options_.jobs) {
      const auto waiting = std::find_if(running_.begin(), running_.end(), [](const TestProcess& p) { return p.ahead(); });
      if (waiting != running_.end()) waiting->begin();
      else if (next_ < plan_.units.size()) start_next(false);
      else break;
    }
    while (running_.size() - begun() < options_.ahead && !made_way_ && next_ < plan_.units.size() &&
           has_gate(plan_.units[next_]) && !Ledger().somebody_waits()) {
      start_next(true);
    }
  }

  void start_next(bool ahead) {
    const PlannedUnit& planned = plan_.units[next_];
    // A unit that had to give way is started twice.
    const fs::path folder = folder_.path() / std::to_string(started_++);
    fs::create_directory(folder);
    ++next_;
    running_.emplace_back(
        TestProcessOptions{planned.program, planned.unit, std::chrono::seconds(options_.timeout), folder, supervisor_, ahead});
  }

  [[nodiscard]] std::size_t begun() const {
    return static_cast<std::size_t>(
        std::count_if(running_.begin(), running_.end(), [](const TestProcess& p) { return !p.ahead(); }));
  }

  /// Tests of a suite one of whose tests came to the gate do so too. Others must not be started before their turn.
  [[nodiscard]] bool has_gate(const PlannedUnit& planned) const {
    return gated_.count(suite_of(planned.program, planned.unit)) != 0;
  }
  static std::string suite_of(const fs::path& program, const TestUnit& unit) {
    return program.string() + " " + unit.tests.front().suite;
  }

  /// A test that waits for its turn must not hold what one that runs waits for: the last one started begins anew later.
  void give_way() {
    if (running_.empty() || !running_.back().ahead()) return;
    const bool is_for_who_has_a_vm = Ledger().somebody_is_next();
    if (!is_for_who_has_a_vm) {
      // Whoever waits may be one that prepares.
      const bool some_prepare =
          std::any_of(running_.begin(), running_.end(), [](const TestProcess& p) { return p.ahead() && !p.at_gate(); });
      if (some_prepare || !Ledger().somebody_waits()) return;
    }
    running_.pop_back();
    --next_;
    // It may have been the one that waited, for a second VM of its own: it would be started and ended over and over.
    if (is_for_who_has_a_vm) made_way_ = true;
  }

  void wait() {
    std::vector<pollfd> entries = {{interrupts_.descriptor(), POLLIN, 0}};
    Deadline deadline = Deadline::after(std::chrono::hours(1));
    for (const TestProcess& process : running_) {
      entries.push_back({process.descriptor(), POLLIN, 0});
      entries.push_back({process.gate_descriptor(), POLLIN, 0});
      deadline = deadline.earlier(process.next_deadline());
      if (process.ahead()) deadline = deadline.earlier(Deadline::after(kGiveWayTime));
    }
    if (::poll(entries.data(), entries.size(), deadline.poll_timeout()) < 0 && errno != EINTR) throw_errno("poll");
    for (TestProcess& process : running_) {
      process.look_at_gate();
      if (process.came_to_gate()) gated_.insert(suite_of(process.options().program, process.options().unit));
    }
  }

  void collect() {
    for (auto process = running_.begin(); process != running_.end();) {
      process->enforce_limit();
      if (!process->ended()) {
        ++process;
        continue;
      }
      records_.push_back({process->options().program, process->finish()});
      printer_.show(records_.back());
      process = running_.erase(process);
      made_way_ = false;
    }
  }

  const RunOptions& options_;
  const Plan& plan_;
  RunPrinter& printer_;
  fs::path supervisor_;
  InterruptGuard interrupts_;
  RunFolder folder_;
  std::size_t next_ = 0;
  std::size_t started_ = 0;
  /// In the order of their units, so those that wait for their turn come last.
  std::list<TestProcess> running_;
  std::set<std::string> gated_;
  /// Whether one ended for somebody's further VM: none is started ahead until a test has ended and there is room again.
  bool made_way_ = false;
  std::vector<RunRecord> records_;
};

void write_json(const std::string& target, const std::string& text) {
  if (target == "-") write_all(STDOUT_FILENO, text);
  else write_file(target, text);
}

int run(const RunOptions& options) {
  // Sharding and reports by the environment are for one process per program; here each has a single test.
  for (const char* name : {"GTEST_TOTAL_SHARDS", "GTEST_SHARD_INDEX", "GTEST_SHARD_STATUS_FILE", "GTEST_OUTPUT"})
    ::unsetenv(name);
  const Plan plan = make_plan(options);
  if (plan.units.empty()) {
    fmt::print(stderr, "vmtest run: no test to run{}\n",
               options.filter.empty() ? "" : "; none matches \"" + options.filter + "\"");
    return kUsage;
  }
  for (const DeadRunFolder& dead : find_dead_run_folders()) {
    std::error_code ignored;
    fs::remove_all(dead.path, ignored);
  }
  RunPrinter printer(options.json == "-" ? stderr : stdout, plan.tests);
  const auto start = Deadline::Clock::now();
  Runner runner(options, plan, printer);
  const int signal = runner.run();
  const double seconds = std::chrono::duration<double>(Deadline::Clock::now() - start).count();
  printer.show_summary(runner.records(), plan.disabled, seconds);
  if (!options.json.empty()) write_json(options.json, run_json(runner.records(), plan.disabled, seconds));
  if (signal != 0) {
    fmt::print(stderr, "vmtest run: interrupted\n");
    return kSignalBase + signal;
  }
  return count(runner.records()).failed == 0 ? kSuccess : kFailed;
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  const auto options = std::make_shared<RunOptions>();  // shared with CLI11's callbacks, which outlive this call
  app.add_option("programs", options->programs, "GoogleTest programs")
      ->required()
      ->check(CLI::ExistingFile)
      ->type_name("PROGRAM");
  app.add_option("-j,--jobs", options->jobs, "Tests that run at the same time; their VMs wait for memory and CPUs by themselves")
      ->check(CLI::Range(1U, 1024U))
      ->capture_default_str();
  app.add_option("--ahead", options->ahead,
                 "Tests whose VMs are made ready while others run, so that they begin at once when it is their turn")
      ->check(CLI::Range(0U, 1024U))
      ->capture_default_str();
  app.add_option(
         "--timeout", options->timeout,
         "Seconds for each test. A test on a VM ends itself a little before, evidence first; then come SIGTERM and SIGKILL")
      ->check(CLI::Range(2U, 86400U))
      ->capture_default_str();
  app.add_option("--filter", options->filter, "Which tests, as --gtest_filter has it (\"Suite.*-Suite.Slow\")");
  app.add_option("--json", options->json,
                 "Write results as JSON to a file, or to standard output (\"-\"; people's text goes to standard error then)");
  app.footer(
      "Each test runs in a process of its own, except that tests of a suite that shares its VM run together. A test fails too\n"
      "when it leaves a process behind. VMTEST_KEEP=1 keeps the VM of a failed test.\n"
      "Exit codes: 0 all passed or were skipped, 1 a test failed, 2 no such test or a wrong command line, 3 a program cannot be\n"
      "started, 128+N ended by signal N.");
  app.final_callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace vmtest::cli
