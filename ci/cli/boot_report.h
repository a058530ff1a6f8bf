#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vmtest::cli {

/// What a test process reported of one VM: a line of the file that VMTEST_REPORT names.
struct BootReport {
  /// Full name of the test; empty when the VM belongs to none.
  std::string test;
  std::string vm;
  /// Phase to seconds, in the order they happened. Empty in the line that announces a VM before its boot.
  std::vector<std::pair<std::string, double>> phases;
  double total = 0;
  std::string accelerator;
  std::string accelerator_reason;
  /// Whether it continued from a template, and why it booted if not.
  bool forked = false;
  std::string boot_reason;
  /// Folder where evidence goes if the test fails.
  std::string evidence;
};

/// Reads all lines. One that is no report (a process killed while writing it) is passed over.
[[nodiscard]] std::vector<BootReport> parse_boot_reports(std::string_view text);

/// How VMs came to be: "48 continued from a template, 2 booted: VMTEST_FORK=never (2)"; empty for none.
[[nodiscard]] std::string count_forks(const std::vector<BootReport>& reports);

/// "clone 0.02 s, seed 0.01 s, ..., total 5.31 s"
[[nodiscard]] std::string format_phases(const BootReport& report);

}  // namespace vmtest::cli
