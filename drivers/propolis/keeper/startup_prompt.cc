#include "startup_prompt.h"

#include <cstdlib>

namespace vmtest::propolis {
namespace {

constexpr std::string_view kBegin = "Press ESC in ";
constexpr std::string_view kEnd = " seconds to skip startup.nsh";
constexpr std::size_t kMostDigits = 4;
constexpr std::size_t kLongest = kBegin.size() + kMostDigits + kEnd.size();

}  // namespace

bool StartupPrompt::take(std::string_view piece) {
  bool began = false;
  for (const char byte : piece) {
    if (!is_text(byte)) continue;
    if (text_.size() == kLongest) text_.erase(0, 1);
    text_ += byte;
    if (!text_.ends_with(kEnd)) continue;
    const std::size_t at = text_.find(kBegin);
    if (at == std::string::npos) continue;
    const int seconds = std::atoi(text_.c_str() + at + kBegin.size());
    // A wait counts down: one that does not is another.
    began = began || seconds >= seconds_;
    seconds_ = seconds;
    text_.clear();
  }
  return began;
}

bool StartupPrompt::is_text(char byte) {
  constexpr char kEscape = '\x1b';
  const Within before = within_;
  if (byte == kEscape) within_ = Within::Escape;
  else if (before == Within::Escape) within_ = byte == '[' ? Within::Sequence : Within::Text;
  else if (before == Within::Sequence && byte >= '@') within_ = Within::Text;
  return before == Within::Text && byte >= ' ';
}

}  // namespace vmtest::propolis
