#pragma once

#include <string>
#include <string_view>

namespace vmtest::guest {

/// Writes to the kernel's console (/dev/console) in one piece, so that two lines of ours never mix. Never throws and never waits
/// for a reader longer than the console driver does.
void write_console(std::string_view text);

/// Reports a failed step that does not stop the boot: "vmtest-init: error: <what>: <why>".
void report_error(std::string_view what, std::string_view why);

/// Text that keeps to one line and shows no control characters.
[[nodiscard]] std::string one_line(std::string_view text);

/// The line the host waits for, to be printed a few times: a kernel message may split one of them.
class Announcement {
 public:
  Announcement() = default;
  /// "VMRS_READY <address>".
  [[nodiscard]] static Announcement ready(std::string_view address);
  /// "VMTEST_FAILED <why>".
  [[nodiscard]] static Announcement failed(std::string_view why);

  /// Prints the line once more, with a line end before it. True while there are more to come.
  bool print();
  /// Milliseconds to wait before the next print, or -1 when all are done.
  [[nodiscard]] int pause() const;

 private:
  explicit Announcement(std::string line);

  std::string line_;
  int left_ = 0;
};

}  // namespace vmtest::guest
