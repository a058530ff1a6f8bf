#include "keeper.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "../api_client.h"
#include "console.h"
#include "host_steps.h"
#include "server.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"

namespace vmtest::propolis {
namespace {

/// How long a question for the next state waits before it is put again: a connection that nobody closed says nothing.
constexpr std::chrono::seconds kMonitorTime{30};
/// From a Stop to the instance's end.
constexpr std::chrono::seconds kStopTime{5};
/// For the rest of what the guest printed to arrive.
constexpr std::chrono::seconds kDrainTime{2};

/// Tells of the instance's states, one byte each, on a thread of its own. It is left behind at the end, waiting for an answer:
/// the process ends with it.
class StateMonitor {
 public:
  explicit StateMonitor(const ApiClient& api) : pipe_(make_pipe()) {
    std::thread([api, out = std::make_shared<FileDescriptor>(std::move(pipe_.write_end))] { follow(api, out->get()); }).detach();
  }
  [[nodiscard]] int descriptor() const { return pipe_.read_end.get(); }
  /// The next state; empty when there is none any more, which the server told by an error.
  [[nodiscard]] std::optional<State> take() const {
    char byte = 0;
    if (::read(pipe_.read_end.get(), &byte, 1) != 1) return std::nullopt;
    return static_cast<State>(byte);
  }

 private:
  static void follow(const ApiClient& api, int out) noexcept {
    std::uint64_t generation = 0;
    for (;;) {
      try {
        const StateChange change = api.monitor_state(generation, Deadline::after(kMonitorTime));
        generation = change.generation + 1;
        const char byte = static_cast<char>(change.state);
        write_all(out, {&byte, 1});
      } catch (const Timeout&) {  // nothing has changed
      } catch (const std::exception&) {
        return;
      }
    }
  }

  Pipe pipe_;
};

FileDescriptor open_signals() {
  // A state may come when nobody asks for one any more.
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  FileDescriptor fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) throw_errno("cannot watch signals");
  return fd;
}

std::string instance_id(const std::filesystem::path& body) {
  return nlohmann::json::parse(read_file(body)).at("properties").at("id");
}

bool is_end(State state) { return state == State::Stopped || state == State::Destroyed; }

class Run {
 public:
  Run(const RunPlan& plan, int signals) : plan_(plan), signals_(signals), server_(plan) {}

  void begin() {
    const std::string body = body_for(server_.api().version());
    const ApiClient& api = server_.api();
    told("the instance cannot be made", [&] { api.ensure(body, patience()); });
    // Before the guest runs, so that there is somebody to read its first byte.
    told("the server does not connect the guest's console", [&] {
      console_.emplace(ConsoleOptions{.host = server_.host(),
                                      .port = server_.port(),
                                      .version = api.version(),
                                      .log = plan_.console_log,
                                      .socket = plan_.console_socket,
                                      .startup_script = plan_.startup_script ? StartupScript::Ours : StartupScript::Others},
                       patience());
    });
    told("the instance cannot be run", [&] { api.change_state(Change::Run, patience()); });
    monitor_.emplace(api);
  }

  void go_on() {
    bool told_running = false;
    while (const auto state = next()) {
      if (*state == State::Running && !told_running) {
        write_file(plan_.running, to_json(RunningServer{server_.host(), server_.port(), server_.api().version()}), 0600);
        told_running = true;
      }
      if (is_end(*state)) {
        (void)console_->wait_end(Deadline::after(kDrainTime));
        return;
      }
      if (*state == State::Failed) throw Error("the instance failed" + server_.last_words());
    }
    stop();
  }

 private:
  [[nodiscard]] Deadline patience() const { return Deadline::after(plan_.patience); }

  /// Adds to a failure what the server's log says, since its answers keep the reason to themselves.
  template <typename Ask>
  void told(const char* what, Ask&& ask) {
    try {
      ask();
    } catch (const std::exception& error) {
      std::string how;
      // A server that aborts has closed the connection a moment before.
      if (server_.pidfd() >= 0 && wait_readable(server_.pidfd(), Deadline::after(std::chrono::milliseconds(300)))) {
        if (const auto status = server_.ended()) how = "\npropolis-server ended with " + vmtest::to_string(*status);
      }
      throw Error(std::string(what) + ": " + error.what() + how + server_.last_words());
    }
  }

  std::string body_for(const std::string& version) const {
    std::string body = read_file(plan_.body);
    const nlohmann::json content = nlohmann::json::parse(body);
    if (version == kOldestVersion && content.at("init").at("value").at("spec").contains("smbios"))
      throw Error("the server speaks version 1.0.0 of the API, which cannot give the guest a serial number (\"ds=nocloud\")");
    return body;
  }

  /// The next state, waited for; empty when it is time to stop. Throws Error when the server is gone.
  std::optional<State> next() {
    for (;;) {
      pollfd entries[] = {{signals_, POLLIN, 0}, {monitor_->descriptor(), POLLIN, 0}, {server_.pidfd(), POLLIN, 0}};
      if (::poll(entries, 3, -1) < 0 && errno != EINTR) throw_errno("poll");
      if (entries[0].revents != 0) return std::nullopt;
      if (entries[1].revents != 0) {
        if (const auto state = monitor_->take()) return state;
      }
      if (entries[1].revents == 0 && entries[2].revents == 0) continue;
      if (server_.pidfd() >= 0) (void)wait_readable(server_.pidfd(), Deadline::after(std::chrono::seconds(1)));
      if (const auto status = server_.ended())
        throw Error("propolis-server ended with " + vmtest::to_string(*status) + " while its guest ran" + server_.last_words());
      throw Error(lost());
    }
  }

  /// Why the monitor has nothing more to tell.
  std::string lost() {
    try {
      (void)server_.api().monitor_state(~std::uint64_t{0} >> 1, Deadline::after(std::chrono::seconds(1)));
    } catch (const std::exception& error) {
      return std::string("the instance is gone: ") + error.what() + server_.last_words();
    }
    return "the server tells of no more states" + server_.last_words();
  }

  void stop() {
    try {
      server_.api().change_state(Change::Stop, Deadline::after(kStopTime));
    } catch (const Refused&) {  // it has ended by itself
    }
    const Deadline deadline = Deadline::after(kStopTime);
    while (!deadline.expired() && wait_readable(monitor_->descriptor(), deadline)) {
      const auto state = monitor_->take();
      if (!state || is_end(*state) || *state == State::Failed) break;
    }
    (void)console_->wait_end(Deadline::after(kDrainTime));
  }

  const RunPlan& plan_;
  const int signals_;
  Server server_;
  std::optional<Console> console_;
  std::optional<StateMonitor> monitor_;
};

}  // namespace

void keep(const RunPlan& plan) {
  const FileDescriptor signals = open_signals();
  if (!plan.journal.empty()) HostSteps::undo_others(plan.journal);
  std::optional<ForeignInstance> foreign;
  if (plan.program.empty()) foreign = ForeignInstance{plan.host, plan.port, instance_id(plan.body)};
  const HostSteps steps(plan.journal, plan.steps, std::move(foreign));
  Run run(plan, signals.get());
  run.begin();
  run.go_on();
}

}  // namespace vmtest::propolis
