#pragma once

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "test_process.h"

namespace vmtest::cli {

/// A unit that has run, and whose.
struct RunRecord {
  std::filesystem::path program;
  UnitResult result;
};

/// How many tests ended how.
struct RunCounts {
  std::size_t passed = 0;
  std::size_t failed = 0;
  std::size_t skipped = 0;
  std::size_t disabled = 0;
  [[nodiscard]] std::size_t total() const { return passed + failed + skipped; }
};
[[nodiscard]] RunCounts count(const std::vector<RunRecord>& records);

/// Prints what a run does, for people: results as they come, then a summary.
class RunPrinter {
 public:
  /// Prints to `stream`, which must outlive it. `total` tests are to come.
  RunPrinter(std::FILE* stream, std::size_t total) : stream_(stream), total_(total) {}

  /// A unit's results: one line per test, its VMs' boot phases below, and the output of a failed one.
  void show(const RunRecord& record);
  void show_summary(const std::vector<RunRecord>& records, std::size_t disabled, double seconds);

 private:
  void show_test(const GtestOutcome& outcome);
  void show_failure(const UnitResult& result);

  std::FILE* stream_;
  std::size_t total_;
  std::size_t shown_ = 0;
  std::string accelerator_;
};

/// JSON text of a run, for scripts.
[[nodiscard]] std::string run_json(const std::vector<RunRecord>& records, std::size_t disabled, double seconds);

}  // namespace vmtest::cli
