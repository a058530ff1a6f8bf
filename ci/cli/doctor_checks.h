#pragma once

#include <functional>
#include <span>
#include <string>

namespace vmtest::cli {

/// What a check found.
struct Finding {
  enum class Kind {
    Good,
    /// Something that only some tests need is not there.
    Limited,
    /// No VM can be run.
    Bad,
  };
  Kind kind = Kind::Good;
  /// What was found.
  std::string detail;
  /// What to do about it; empty when it is good.
  std::string mend;
};

/// One thing the host needs, and how it is really tried. A check that throws is Bad, or Limited when it is optional.
struct Check {
  const char* name;
  Finding (*run)();
  /// Whether VMs run without it.
  bool optional;
  /// The mend when it throws.
  const char* mend;
};

/// All of them, in the order of the report.
[[nodiscard]] std::span<const Check> doctor_checks();
/// Runs a check; never throws.
[[nodiscard]] Finding run_check(const Check& check) noexcept;

}  // namespace vmtest::cli
