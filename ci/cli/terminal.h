#pragma once

#include <termios.h>

#include <optional>

namespace vmtest::cli {

/// While it lives, a terminal passes every key on as it is, Ctrl-C included. Does nothing on what is no terminal.
class RawTerminal {
 public:
  explicit RawTerminal(int fd);
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

 private:
  int fd_;
  std::optional<termios> before_;
};

}  // namespace vmtest::cli
