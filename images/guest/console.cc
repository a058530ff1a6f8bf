#include "guest/console.h"

#include <fcntl.h>
#include <unistd.h>

#include "guest/files.h"

namespace vmtest::guest {
namespace {

constexpr int kRepeats = 3;
// Long enough for one burst of kernel messages to pass, short enough to be over before a first test command ends.
constexpr int kPauseMilliseconds = 100;

}  // namespace

void write_console(std::string_view text) {
  // Kept open, since opening it costs a guest under emulation tens of milliseconds. A hang-up of the line must not silence us
  // for good, and before the root is switched there may be no /dev: then it is opened anew.
  static Descriptor console;
  bool is_fresh = false;
  while (!text.empty()) {
    if (!console) {
      console = Descriptor(open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC));
      is_fresh = true;
    }
    const ssize_t written = console ? write(console.get(), text.data(), text.size()) : -1;
    if (written > 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (is_fresh) {
      return;
    } else {
      console = Descriptor();
    }
  }
}

void report_error(std::string_view what, std::string_view why) {
  write_console("\nvmtest-init: error: " + one_line(what) + ": " + one_line(why) + "\n");
}

std::string one_line(std::string_view text) {
  std::string out(trim(text));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      c = ' ';
    }
  }
  return out;
}

Announcement::Announcement(std::string line) : line_("\n" + std::move(line) + "\n"), left_(kRepeats) {}

Announcement Announcement::ready(std::string_view address) { return Announcement("VMRS_READY " + std::string(address)); }

Announcement Announcement::failed(std::string_view why) { return Announcement("VMTEST_FAILED " + one_line(why)); }

bool Announcement::print() {
  if (left_ > 0) {
    --left_;
    write_console(line_);
  }
  return left_ > 0;
}

int Announcement::pause() const { return left_ > 0 ? kPauseMilliseconds : -1; }

}  // namespace vmtest::guest
