#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace vmtest::propolis {

/// Finds, in what a guest prints, that the firmware's shell waits for a key before it runs its startup script: "Press ESC in 5
/// seconds to skip startup.nsh or any other key to continue." with escape sequences in between, told anew each second. A value.
class StartupPrompt {
 public:
  /// Takes the next piece, of any length. True when with it such a wait began: once for each boot of the guest.
  [[nodiscard]] bool take(std::string_view piece);

 private:
  enum class Within { Text, Escape, Sequence };
  /// Whether the byte is of the text, and not of an escape sequence or one that moves the cursor.
  [[nodiscard]] bool is_text(char byte);

  Within within_ = Within::Text;
  std::string text_;
  /// Left of the wait told last.
  int seconds_ = 0;
};

}  // namespace vmtest::propolis
