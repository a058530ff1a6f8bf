#include "process.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "command_line.h"
#include "process_state.h"
#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest::ssh {
namespace {

using namespace std::chrono_literals;

// Killing needs a shell in the guest, which takes its time under emulation.
constexpr auto kKillTime = 5s;
constexpr auto kSignalTime = 30s;
// Input on its way before write() waits.
constexpr std::size_t kInputBuffer = 1024 * 1024;

/// Kills a process and its descendants: each is stopped first, so that it makes no more of them. Not all servers give a
/// command a process group (dropbear), not all kernels tell children (then the group has to do).
std::string kill_line(long pid) {
  return "k() { kill -s STOP $1; for c in $(cat /proc/$1/task/*/children); do k $c; done; kill -s KILL $1; }\n"
         "exec 2>/dev/null; k " +
         std::to_string(pid) + "; kill -s KILL -- -" + std::to_string(pid) + "; :";
}

}  // namespace

RemoteProcess::RemoteProcess(std::shared_ptr<IoThread> io, std::shared_ptr<SessionLog> log, const GuestCommand& command)
    : io_(std::move(io)), log_(std::move(log)), name_(display(command)), started_(std::chrono::steady_clock::now()) {
  if (io_->on_io_thread()) throw Error("a guest cannot be used from an output callback");
  const std::string marker = "vmtest-pid-" + random_hex(8);
  std::string line = command_line(command, marker);
  state_ = std::make_shared<ProcessState>(command, marker);
  std::string input;
  if (line.size() > kLongestCommandLine) {
    input = std::move(line);
    line = read_line_from_input(input.size());
  }
  channel_ = io_->open({ChannelRequest::Kind::Exec, std::move(line), 0}, state_);
  if (!input.empty()) {
    state_->add_queued(input.size());
    io_->send(channel_, std::move(input));
  }
}

RemoteProcess::~RemoteProcess() {
  state_->mute();
  kill();
}

void RemoteProcess::kill() noexcept {
  try {
    if (state_->ended()) return;
    const Deadline deadline = Deadline::after(kKillTime);
    // It is killed even when this process waits no longer; what waits is how its end comes.
    if (const auto pid = state_->wait_pid(deadline)) {
      const auto helper = run_helper(kill_line(*pid));
      if (!state_->wait_ended(deadline)) log_->line("not seen to die within " + format_seconds(kKillTime) + ": " + name_);
    }
    io_->give_up(channel_);
  } catch (const std::exception& error) {
    log_->line("cannot kill " + name_ + ": " + error.what());
  }
}

std::shared_ptr<ProcessState> RemoteProcess::run_helper(const std::string& line) {
  auto helper = std::make_shared<ProcessState>(GuestCommand(line), "");
  (void)io_->open({ChannelRequest::Kind::Exec, line, 0}, helper);
  return helper;
}

void RemoteProcess::wait_started(std::chrono::milliseconds timeout) {
  if (!state_->wait_started(timeout)) {
    throw Timeout("the guest's SSH server did not start the command within " + format_seconds(timeout) + ": " + name_);
  }
  if (state_->failed()) (void)wait(0ms);
  log_->line("spawn " + name_, started_);
}

CommandResult RemoteProcess::run(const GuestCommand& command) {
  if (!command.standard_input.empty()) {
    state_->add_queued(command.standard_input.size());
    io_->send(channel_, command.standard_input);
  }
  close_input();
  if (!state_->wait_started(command.timeout) || !state_->wait_ended(Deadline::after(command.timeout))) {
    const std::string tail = state_->tail();
    state_->mute();
    kill();
    log_->line("exec " + name_ + ": timed out", started_);
    throw Timeout("the guest command did not end within " + format_seconds(command.timeout) + " and was killed: " + name_ + tail);
  }
  state_->mute();
  try {
    CommandResult result = state_->result();
    log_->line("exec " + name_ + ": " + describe_ending(result) + ", " + std::to_string(result.out.size()) + " + " +
                   std::to_string(result.err.size()) + " bytes",
               started_);
    return result;
  } catch (const Error& error) {
    log_->line("exec " + name_ + ": " + error.what(), started_);
    rethrow_with_context("the guest command failed: " + name_);
  }
}

void RemoteProcess::write(std::string_view data, std::chrono::milliseconds timeout) {
  const Deadline deadline = Deadline::after(timeout);
  const auto wait_room = [&](std::size_t limit) {
    if (!state_->wait_room(limit, deadline)) {
      throw Timeout("the guest process did not read its input within " + format_seconds(timeout) + ": " + name_ + state_->tail());
    }
  };
  const auto fail = [&] { throw Error("the guest process that shall get input has ended: " + name_ + state_->tail()); };
  while (!data.empty()) {
    wait_room(kInputBuffer);
    if (state_->ended()) fail();
    const std::string_view piece = data.substr(0, kInputBuffer);
    state_->add_queued(piece.size());
    io_->send(channel_, std::string(piece));
    data.remove_prefix(piece.size());
  }
  wait_room(1);  // all of it is on its way
  // One that took its input and ended on it at once did what it should.
  if (!state_->all_sent()) fail();
}

void RemoteProcess::close_input() { io_->end_input(channel_); }

CommandResult RemoteProcess::wait(std::chrono::milliseconds timeout) {
  if (!state_->wait_ended(Deadline::after(timeout))) {
    throw Timeout("the guest process did not end within " + format_seconds(timeout) + ": " + name_ + state_->tail());
  }
  return with_context("the guest process failed: " + name_, [&] { return state_->result(); });
}

std::optional<CommandResult> RemoteProcess::poll() {
  if (!state_->ended()) return std::nullopt;
  return wait(0ms);
}

void RemoteProcess::signal(std::string_view name) {
  if (name.empty() ||
      !std::all_of(name.begin(), name.end(), [](char c) { return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); })) {
    throw Error("\"" + std::string(name) + "\" is not the name of a signal; it is written without SIG: \"TERM\"");
  }
  const auto pid = state_->wait_pid(Deadline::after(kSignalTime));
  if (!pid) throw Error("the guest process has ended, or its login shell is none that tells a process id: " + name_);
  const auto helper = run_helper("kill -s " + std::string(name) + " " + std::to_string(*pid));
  if (!helper->wait_started(kSignalTime) || !helper->wait_ended(Deadline::after(kSignalTime))) {
    throw Timeout("signal " + std::string(name) + " took longer than " + format_seconds(kSignalTime) + ": " + name_);
  }
  const CommandResult result = helper->result();
  if (!result.ok()) throw Error("cannot send signal " + std::string(name) + " to " + name_ + ": " + sanitize_console(result.err));
  log_->line("signal " + std::string(name) + " to " + name_);
}

std::string RemoteProcess::stdout_so_far() { return state_->output(Stream::Out); }
std::string RemoteProcess::stderr_so_far() { return state_->output(Stream::Err); }

}  // namespace vmtest::ssh
