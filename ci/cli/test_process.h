#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "boot_report.h"
#include "gtest_list.h"
#include "gtest_result.h"
#include "process_scan.h"
#include "vmtest/deadline.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest::cli {

/// What a process of tests is started with.
struct TestProcessOptions {
  std::filesystem::path program;
  TestUnit unit;
  /// Limit for each test of the unit.
  std::chrono::seconds timeout{300};
  /// An existing folder for output and reports.
  std::filesystem::path folder;
  /// Told to the tests when they have not been told already.
  std::filesystem::path supervisor;
  /// Started before its turn: it gets its VM ready and waits until begin() is called.
  bool ahead = false;
};

/// All about a unit that has ended.
struct UnitResult {
  std::vector<GtestOutcome> outcomes;
  double seconds = 0;
  std::vector<BootReport> boots;
  /// Evidence folders that exist.
  std::vector<std::string> evidence;
  /// What the process printed, harmless for a terminal; only its end when it was much.
  std::string output;
  /// How the process ended when it did not end well by itself.
  std::string ending;
  /// Processes that outlived it though they were not told to; they have been killed.
  std::vector<FoundProcess> left_behind;
};

/// A running process of tests, with its time limit. A test on a VM comes to a gate when its VM is ready (see fixtures/gate.h) and
/// is let through when it is its turn; other tests know no gate. Destroying it kills it.
class TestProcess {
 public:
  /// Throws std::system_error when the program cannot be started.
  explicit TestProcess(TestProcessOptions options);

  /// Readable when the process has ended.
  [[nodiscard]] int descriptor() const { return child_.pidfd(); }
  /// Readable when its test has come to the gate.
  [[nodiscard]] int gate_descriptor() const { return gate_.get(); }
  /// Takes note of a test at the gate; lets it through if it is its turn.
  void look_at_gate();
  /// Whether its test has come to the gate, now or before.
  [[nodiscard]] bool came_to_gate() const { return came_to_gate_; }
  /// Whether it waits there.
  [[nodiscard]] bool at_gate() const { return waiting_.valid(); }
  [[nodiscard]] bool ahead() const { return options_.ahead; }
  /// It is its turn: its time counts from now on.
  void begin();
  /// When enforce_limit() must be called next.
  [[nodiscard]] Deadline next_deadline() const { return deadline_; }
  [[nodiscard]] bool ended() { return child_.poll().has_value(); }
  /// Asks the process to end when its time is over, and ends it when it does not.
  void enforce_limit();
  /// Looks at what it left. Call it once, when it has ended. Waits a moment for supervisors that are still cleaning up.
  [[nodiscard]] UnitResult finish();
  [[nodiscard]] const TestProcessOptions& options() const { return options_; }

 private:
  /// 'b': its time begins anew; 'c': it goes on.
  void open_gate(char word);
  void judge(UnitResult& result, const ExitStatus& status, const std::string& output) const;

  TestProcessOptions options_;
  std::string marker_;
  FileDescriptor gate_;
  FileDescriptor waiting_;
  bool came_to_gate_ = false;
  ChildProcess child_;
  Deadline::Clock::time_point start_;
  Deadline deadline_;
  bool asked_ = false;
};

/// How long before the outer limit a test ends itself, evidence first. The same rule as in vmtest_discover_tests.
[[nodiscard]] std::chrono::seconds evidence_margin(std::chrono::seconds timeout);

}  // namespace vmtest::cli
