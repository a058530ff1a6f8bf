#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "guest/agent.h"
#include "guest/console.h"
#include "guest/devices.h"
#include "guest/modules.h"
#include "guest/network.h"
#include "guest/power.h"
#include "guest/seed.h"
#include "guest/services.h"
#include "guest/timeline.h"

namespace vmtest::guest {

/// Where a booted guest keeps the times of its boot.
inline constexpr const char* kTimelineFile = "/run/vmtest/boot-times";

/// The kernel's command line: words, and words with values.
[[nodiscard]] std::map<std::string, std::string> parse_command_line(const std::string& text);

/// PID 1 once the root file system is there: brings the guest up as its seed asks, announces it, then keeps services
/// running, loads drivers for new devices, and takes the machine down when asked.
class Init {
 public:
  /// `timeline` holds the steps before; the whole is written to kTimelineFile once the guest is announced.
  Init(std::map<std::string, std::string> command_line, Timeline timeline);

  /// Never returns.
  [[noreturn]] void run();

 private:
  using Clock = std::chrono::steady_clock;

  void bring_up();
  void load_seed();
  void start_services();
  void wait_for_ssh();
  void set_host_key(const HostKey& key);
  void start_next_command();
  void command_ended(int status);
  void announce(Announcement announcement);
  void fail(const std::string& why);

  void wait_and_dispatch();
  [[nodiscard]] int poll_timeout() const;
  void run_timers();
  void read_signals();
  void reap_children();
  void read_device_events();

  std::map<std::string, std::string> command_line_;
  Timeline timeline_;
  ModuleLoader modules_;
  DeviceListener devices_;
  Descriptor signals_;
  PowerButton power_button_;
  Agent agent_{[this](const HostKey& key) { set_host_key(key); }};
  Seed seed_;
  std::optional<Network> network_;
  std::vector<Service> services_;
  bool failed_ = false;
  /// Commands of the seed not yet run; the running one has a pid.
  std::size_t next_command_ = 0;
  pid_t command_ = -1;
  Announcement announcement_;
  Clock::time_point next_announcement_{};
};

}  // namespace vmtest::guest
