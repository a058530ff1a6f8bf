#include "guest/init.h"

#include <poll.h>
#include <signal.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "guest/mounts.h"
#include "guest/openssh_key.h"
#include "guest/readdress.h"
#include "guest/setup.h"

namespace vmtest::guest {
namespace {

using std::chrono::milliseconds;

constexpr std::uint16_t kSshPort = 22;
constexpr const char* kServer = "dropbear";
constexpr milliseconds kSshWait = std::chrono::seconds(60);
constexpr milliseconds kSshPoll{4};
constexpr milliseconds kBannerWait = std::chrono::seconds(5);
// A disk behind a SCSI, SATA or USB controller shows up late; where there is one, the boot waits this long for a seed.
constexpr milliseconds kSeedWait = std::chrono::seconds(3);
constexpr milliseconds kSeedPoll{50};
constexpr const char* kCommandLog = "/var/log/vmtest-runcmd.log";
constexpr std::size_t kShownCommand = 120;

std::string module_folder() {
  utsname names{};
  uname(&names);
  return std::string("/lib/modules/") + names.release;
}

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) {
    sigaddset(&set, signal);
  }
  return set;
}

std::string shown_command(const std::vector<std::string>& argv) {
  std::string text;
  for (const std::string& argument : argv) {
    text += (text.empty() ? "" : " ") + argument;
  }
  return one_line(text).substr(0, kShownCommand);
}

std::string console_terminal() {
  const std::string active = find_file("/sys/class/tty/console/active").value_or("");
  const std::vector<std::string_view> words = split(active, " \n");
  return words.empty() ? "/dev/console" : "/dev/" + std::string(words.back());
}

}  // namespace

std::map<std::string, std::string> parse_command_line(const std::string& text) {
  std::map<std::string, std::string> words;
  for (const std::string_view word : split(text, " \n")) {
    const std::size_t equals = word.find('=');
    words[std::string(word.substr(0, equals))] = equals == std::string_view::npos ? "" : word.substr(equals + 1);
  }
  return words;
}

Init::Init(std::map<std::string, std::string> command_line, Timeline timeline)
    : command_line_(std::move(command_line)), timeline_(std::move(timeline)), modules_(module_folder()) {
  timeline_.mark("module tables");
  const sigset_t set = watched_signals();
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = Descriptor(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  // Ctrl-Alt-Del becomes SIGINT to us instead of a hard reset.
  reboot(RB_DISABLE_CAD);
}

void Init::run() {
  try {
    bring_up();
  } catch (const std::exception& error) {
    fail(error.what());
  }
  while (true) {
    try {
      wait_and_dispatch();
    } catch (const std::exception& error) {
      report_error("init", error.what());
    }
  }
}

void Init::bring_up() {
  mount_rest();
  timeline_.mark("mounts");
  coldplug(modules_);
  modules_.load("evdev");
  power_button_.add_all();
  if (agent_.open()) {
    timeline_.mark("agent");
  }
  timeline_.mark("drivers");
  try {
    load_seed();
    timeline_.mark("seed read");
    if (!instance_is_known(seed_.instance_id)) {
      set_hostname(seed_.hostname);
    } else {
      // A fork was given another name and address since.
      set_hostname(std::string(trim(find_file("/etc/hostname").value_or(seed_.hostname))));
      apply_remembered_change(seed_.cards);
    }
    if (!instance_is_known(seed_.instance_id)) {
      grow_root();
      apply_seed(seed_);
    } else {
      mount_table();
      next_command_ = seed_.commands.size();
    }
    timeline_.mark("seed applied");
    network_.emplace(seed_.hostname);
    network_->configure(seed_.cards);
    timeline_.mark("network");
  } catch (const std::exception& error) {
    // The server starts all the same: with some luck a person can look at what went wrong.
    fail(error.what());
  }
  ensure_host_key();
  start_services();
  wait_for_ssh();
  timeline_.mark("sshd");
  if (!failed_) {
    start_next_command();
  }
}

void Init::load_seed() {
  std::optional<Seed> found = find_seed();
  if (!list_folder("/sys/class/scsi_host").empty()) {
    for (const auto end = Clock::now() + kSeedWait; !found && Clock::now() < end; found = find_seed()) {
      coldplug(modules_);
      poll(nullptr, 0, static_cast<int>(kSeedPoll.count()));
    }
  }
  if (found) {
    seed_ = std::move(*found);
  }
}

void Init::start_services() {
  // In the foreground, messages to its log, keys only; -e hands our environment on to logins.
  services_.emplace_back(
      kServer, std::vector<std::string>{"dropbear", "-F", "-E", "-s", "-e", "-p", std::to_string(kSshPort), "-r", kHostKeyFile});
  if (command_line_.count("vmtest.shell") > 0 && command_line_["vmtest.shell"] != "0") {
    services_.emplace_back("shell", std::vector<std::string>{"/bin/sh", "-l"}, console_terminal());
  }
  for (Service& service : services_) {
    service.start();
  }
}

void Init::set_host_key(const HostKey& key) {
  write_file(kHostKeyFile, dropbear_key(key.private_key), 0600);
  for (Service& service : services_) {
    if (service.name() == kServer) {
      service.restart();
    }
  }
}

void Init::wait_for_ssh() {
  const auto end = Clock::now() + kSshWait;
  while (!answers_ssh(kSshPort, kBannerWait)) {
    if (Clock::now() > end) {
      throw std::runtime_error("sshd does not answer on port 22: " + last_line("/var/log/dropbear.log"));
    }
    reap_children();
    run_timers();
    poll(nullptr, 0, static_cast<int>(kSshPoll.count()));
  }
}

void Init::start_next_command() {
  if (next_command_ < seed_.commands.size()) {
    try {
      command_ = start_program(seed_.commands[next_command_], kCommandLog);
    } catch (const std::exception& error) {
      fail(std::string("runcmd: ") + error.what());
    }
    return;
  }
  remember_instance(seed_.instance_id);
  timeline_.mark("commands");
  write_file(kTimelineFile, timeline_.text(), 0644);
  announce(Announcement::ready(announced_address()));
}

void Init::command_ended(int status) {
  command_ = -1;
  if (status != 0) {
    const std::string last = last_line(kCommandLog);
    fail("runcmd \"" + shown_command(seed_.commands[next_command_]) + "\": " + describe_status(status) +
         (last.empty() ? "" : ": " + last));
    return;
  }
  ++next_command_;
  start_next_command();
}

void Init::fail(const std::string& why) {
  if (!failed_) {
    failed_ = true;
    announce(Announcement::failed(why));
  }
}

void Init::announce(Announcement announcement) {
  announcement_ = std::move(announcement);
  announcement_.print();
  next_announcement_ = Clock::now() + milliseconds(std::max(announcement_.pause(), 0));
}

void Init::wait_and_dispatch() {
  // Without an agent its descriptor is -1, which poll() passes over.
  std::vector<pollfd> waits = {{signals_.get(), POLLIN, 0}, {devices_.descriptor(), POLLIN, 0}, {agent_.descriptor(), POLLIN, 0}};
  const std::size_t buttons = waits.size();
  for (const Descriptor& device : power_button_.devices()) {
    waits.push_back({device.get(), POLLIN, 0});
  }
  poll(waits.data(), waits.size(), poll_timeout());
  run_timers();
  read_signals();
  if (waits[1].revents != 0) {
    read_device_events();
  }
  if (waits[2].revents != 0) {
    agent_.handle();
  }
  for (std::size_t index = buttons; index < waits.size(); ++index) {
    if (waits[index].revents != 0 && power_button_.pressed(waits[index].fd)) {
      go_down(PowerAction::PowerOff);
    }
  }
}

int Init::poll_timeout() const {
  std::optional<Clock::time_point> next;
  const auto consider = [&next](std::optional<Clock::time_point> time) {
    if (time && (!next || *time < *next)) {
      next = time;
    }
  };
  if (announcement_.pause() >= 0) {
    consider(next_announcement_);
  }
  for (const Service& service : services_) {
    consider(service.next_start());
  }
  if (network_) {
    consider(network_->next_renewal());
  }
  if (!next) {
    return -1;
  }
  constexpr long kLongestMilliseconds = 1L << 30;
  const long rest = std::chrono::duration_cast<milliseconds>(*next - Clock::now()).count() + 1;
  return static_cast<int>(std::clamp(rest, 0L, kLongestMilliseconds));
}

void Init::run_timers() {
  const auto now = Clock::now();
  if (announcement_.pause() >= 0 && next_announcement_ <= now) {
    announcement_.print();
    next_announcement_ = now + milliseconds(std::max(announcement_.pause(), 0));
  }
  for (Service& service : services_) {
    if (service.next_start() && *service.next_start() <= now) {
      service.start();
    }
  }
  if (network_ && network_->next_renewal() && *network_->next_renewal() <= now) {
    network_->renew();
  }
}

void Init::read_signals() {
  signalfd_siginfo info{};
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    if (const PowerAction action = power_action_of(static_cast<int>(info.ssi_signo)); action != PowerAction::None) {
      go_down(action);
    }
  }
  reap_children();
}

void Init::reap_children() {
  int status = 0;
  while (true) {
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) {
      return;
    }
    if (pid == command_) {
      command_ended(status);
    } else {
      std::any_of(services_.begin(), services_.end(), [&](Service& service) { return service.ended(pid, status); });
    }
  }
}

void Init::read_device_events() {
  for (const DeviceEvent& event : devices_.take()) {
    if (event.action != "add") {
      continue;
    }
    if (!event.modalias.empty()) {
      modules_.load_for_device(event.modalias);
    }
    if (event.subsystem == "input" && event.node.rfind("/dev/input/event", 0) == 0) {
      power_button_.add(event.node);
    }
  }
}

}  // namespace vmtest::guest
