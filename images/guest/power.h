#pragma once

#include <string>
#include <vector>

#include "guest/files.h"

namespace vmtest::guest {

/// How the machine goes down.
enum class PowerAction { None, PowerOff, Reboot, Halt };

/// What a signal to PID 1 asks for, in busybox's words: USR1 halt, USR2 power off, TERM reboot, INT (Ctrl-Alt-Del) reboot.
[[nodiscard]] PowerAction power_action_of(int signal);

/// Ends all processes (TERM, a second, KILL), writes everything to disk and does what was asked. Does not return.
[[noreturn]] void go_down(PowerAction action);

/// The input devices that have a power key, the ACPI power button among them.
class PowerButton {
 public:
  /// Takes an input device ("/dev/input/event0") into the watch if it has a power key.
  void add(const std::string& node);
  /// Takes all that are there.
  void add_all();
  [[nodiscard]] const std::vector<Descriptor>& devices() const { return devices_; }
  /// Reads what a device that became readable has to say; true when the power key was pressed.
  bool pressed(int device);

 private:
  std::vector<Descriptor> devices_;
};

}  // namespace vmtest::guest
