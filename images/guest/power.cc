#include "guest/power.h"

#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

#include "guest/mounts.h"

namespace vmtest::guest {
namespace {

using Clock = std::chrono::steady_clock;

// Long enough for a database to close its files, short against the patience of a test's tear-down.
constexpr std::chrono::milliseconds kTermWait{1000};
constexpr int kPollMilliseconds = 5;
constexpr std::string_view kInputFolder = "/dev/input";

/// Reaps until no child is left or the time is over; orphans are our children too.
bool all_gone(std::chrono::milliseconds wait) {
  const auto end = Clock::now() + wait;
  while (true) {
    const pid_t pid = waitpid(-1, nullptr, WNOHANG);
    if (pid < 0 && errno == ECHILD) {
      return true;
    }
    if (pid > 0) {
      continue;
    }
    if (Clock::now() > end) {
      return false;
    }
    poll(nullptr, 0, kPollMilliseconds);
  }
}

}  // namespace

PowerAction power_action_of(int signal) {
  switch (signal) {
    case SIGUSR1:
      return PowerAction::Halt;
    case SIGUSR2:
      return PowerAction::PowerOff;
    case SIGTERM:
    case SIGINT:
      return PowerAction::Reboot;
    default:
      return PowerAction::None;
  }
}

void go_down(PowerAction action) {
  kill(-1, SIGTERM);
  // A shell ignores TERM while it waits; it does end on HUP.
  kill(-1, SIGHUP);
  if (!all_gone(kTermWait)) {
    kill(-1, SIGKILL);
    all_gone(kTermWait);
  }
  sync();
  unmount_all();
  reboot(action == PowerAction::Reboot ? RB_AUTOBOOT : action == PowerAction::Halt ? RB_HALT_SYSTEM : RB_POWER_OFF);
  while (true) {
    pause();
  }
}

void PowerButton::add(const std::string& node) {
  Descriptor device(open(node.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  std::array<unsigned char, KEY_MAX / 8 + 1> keys{};
  if (device && ioctl(device.get(), EVIOCGBIT(EV_KEY, keys.size()), keys.data()) >= 0 &&
      (keys[KEY_POWER / 8] >> (KEY_POWER % 8) & 1) != 0) {
    devices_.push_back(std::move(device));
  }
}

void PowerButton::add_all() {
  for (const std::string& name : list_folder(std::string(kInputFolder))) {
    if (name.rfind("event", 0) == 0) {
      add(std::string(kInputFolder) + "/" + name);
    }
  }
}

bool PowerButton::pressed(int device) {
  input_event event{};
  while (true) {
    const ssize_t size = read(device, &event, sizeof event);
    if (size == sizeof event) {
      if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
        return true;
      }
      continue;
    }
    if (size < 0 && errno == ENODEV) {
      devices_.erase(
          std::remove_if(devices_.begin(), devices_.end(), [device](const Descriptor& known) { return known.get() == device; }),
          devices_.end());
    }
    return false;
  }
}

}  // namespace vmtest::guest
