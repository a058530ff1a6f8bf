#include <sys/stat.h>
#include <unistd.h>

#include <deque>
#include <nlohmann/json.hpp>
#include <system_error>

#include "platform.h"
#include "protocol.h"
#include "vmtest/error.h"
#include "vmtest/host/socket.h"
#include "vmtest/supervisor.h"

namespace vmtest {
namespace {

using nlohmann::json;

/// Longest tear-down: killing waits for the kernel, removing folders for the disk.
constexpr std::chrono::seconds kEndTime{15};

SupervisedExit parse_exit(const json& event) {
  SupervisedExit exit{
      event.at("name"), {event.at("code"), event.at("signal")}, event.at("last_words"), event.value("told", false)};
  if (const auto cause = event.find("cause"); cause != event.end()) {
    exit.cause = SupervisedExit::Cause{cause->at("name"), {cause->at("code"), cause->at("signal")}, cause->at("last_words")};
  }
  return exit;
}

/// Throws unless the supervisor that said `hello` can be talked to; of another version not even the rest may be read.
void require_protocol(const json& hello, const std::string& who) {
  if (hello.value("protocol", 0) == supervisor::kProtocolVersion) return;
  throw Error(who + " is of version " + hello.value("version", "unknown") + " and speaks another protocol than this library of " +
              VMTEST_VERSION + "; rebuild, or point VMTEST_SUPERVISOR to the right one");
}

}  // namespace

struct SupervisorConnection::Incoming {
  struct Exit {
    pid_t pid = -1;
    SupervisedExit report;
  };
  supervisor::LineBuffer lines;
  std::deque<json> replies;
  std::map<std::string, Exit> exits;
  std::map<std::string, pid_t> started;
  FileDescriptor process;  // pidfd of the supervisor
  bool closed = false;
};

SupervisorConnection::SupervisorConnection(FileDescriptor socket)
    : socket_(std::move(socket)), incoming_(std::make_unique<Incoming>()) {
  set_nonblocking(socket_.get(), false);
}

SupervisorConnection::~SupervisorConnection() = default;

std::shared_ptr<SupervisorConnection> SupervisorConnection::start(const SupervisorOptions& options) {
  const auto program = find_supervisor();
  auto [ours, theirs] = make_socket_pair();
  const pid_t self = ::getpid();
  ProcessOptions process;
  // Absolute, since the supervisor does not stay in this folder.
  process.argv = {program.string(),
                  "--name",
                  options.name,
                  "--work-dir",
                  std::filesystem::absolute(options.work_dir).string(),
                  "--runtime-dir",
                  std::filesystem::absolute(options.runtime_dir).string(),
                  "--owner",
                  std::to_string(self),
                  "--owner-start",
                  std::to_string(process_start_time(self).value_or(0))};
  if (!options.evidence_dir.empty()) {
    process.argv.insert(process.argv.end(), {"--evidence-dir", std::filesystem::absolute(options.evidence_dir).string()});
  }
  process.pass_descriptors = {{theirs.get(), supervisor::kOwnerDescriptor}};
  process.parent_death = ParentDeath::Ignore;
  ChildProcess child = with_context("cannot start the supervisor", [&] { return ChildProcess::start(process); });
  theirs.reset();
  // The program forks once more at its start, so this child ends at once; what serves us is nobody's child.
  const auto ended = child.wait(Deadline::after(kAnswerTime));
  if (!ended || !ended->ok())
    throw Error("the supervisor did not start: " + (ended ? to_string(*ended) : "no answer") + " from " + program.string());

  std::shared_ptr<SupervisorConnection> connection(new SupervisorConnection(std::move(ours)));
  with_context("cannot make a VM with the supervisor " + program.string(), [&] {
    const json hello = json::parse(connection->request(""));
    require_protocol(hello, "it");
    connection->greet(hello.dump());
    if (hello.at("version") != VMTEST_VERSION) {
      throw Error("it is of version " + hello.at("version").get<std::string>() + ", this library of " + VMTEST_VERSION +
                  "; rebuild, or point VMTEST_SUPERVISOR to the right one");
    }
  });
  return connection;
}

std::shared_ptr<SupervisorConnection> SupervisorConnection::connect(const std::filesystem::path& socket,
                                                                    std::chrono::milliseconds answer_time) {
  return with_context("no VM answers at " + socket.string(), [&] {
    std::shared_ptr<SupervisorConnection> connection(new SupervisorConnection(connect_unix(socket)));
    connection->answer_time_ = answer_time;
    const json hello = json::parse(connection->request(json{{"op", "status"}}.dump()));
    require_protocol(hello, "its supervisor");
    connection->greet(hello.dump());
    return connection;
  });
}

void SupervisorConnection::greet(const std::string& hello_text) {
  const json hello = json::parse(hello_text);
  pid_ = hello.at("pid");
  start_time_ = hello.at("start_time");
  incoming_->process = supervisor::try_open_pidfd(pid_);
  // What ended before we came is news to us.
  for (const json& event : hello.at("ended")) incoming_->exits[event.at("name")] = {event.at("pid"), parse_exit(event)};
}

bool SupervisorConnection::read_messages(const Deadline& deadline) {
  if (incoming_->closed) return false;
  if (!wait_readable(socket_.get(), deadline)) return true;
  if (!incoming_->lines.receive(socket_.get())) incoming_->closed = true;
  while (auto message = incoming_->lines.next()) {
    if (!message->contains("event")) {
      incoming_->replies.push_back(std::move(*message));
      continue;
    }
    const std::string name = message->at("name");
    if (message->at("event") == "restarted") {
      incoming_->started[name] = message->at("pid");
      continue;
    }
    // An exit of a process started anew since is old news.
    const auto started = incoming_->started.find(name);
    if (started == incoming_->started.end() || started->second == message->at("pid")) {
      incoming_->exits[name] = {message->at("pid"), parse_exit(*message)};
    }
  }
  return !incoming_->closed;
}

std::string SupervisorConnection::request(const std::string& message, int fd) {
  const auto gone = [this] {
    return Error("the supervisor" + (pid_ > 0 ? " (process " + std::to_string(pid_) + ")" : "") + " is gone");
  };
  try {
    if (!message.empty()) send_message(socket_.get(), message + "\n", fd);
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::broken_pipe || error.code() == std::errc::connection_reset) throw gone();
    throw;
  }
  const Deadline deadline = Deadline::after(answer_time_);
  while (incoming_->replies.empty()) {
    if (!read_messages(deadline) && incoming_->replies.empty()) throw gone();
    if (incoming_->replies.empty() && deadline.expired()) {
      incoming_->closed = true;  // a late answer would be taken for that to the next request
      throw Timeout("the supervisor does not answer");
    }
  }
  const json reply = std::move(incoming_->replies.front());
  incoming_->replies.pop_front();
  if (!reply.value("ok", false)) throw Error(reply.value("error", "the supervisor refused without a reason"));
  return reply.dump();
}

void SupervisorConnection::hold(const std::string& name, int fd) {
  const std::lock_guard lock(mutex_);
  (void)request(json{{"op", "hold"}, {"name", name}}.dump(), fd);
}

void SupervisorConnection::release(const std::string& name) {
  const std::lock_guard lock(mutex_);
  (void)request(json{{"op", "release"}, {"name", name}}.dump());
}

pid_t SupervisorConnection::spawn(const SupervisedProcess& process) {
  const std::lock_guard lock(mutex_);
  incoming_->exits.erase(process.name);
  incoming_->started.erase(process.name);
  const json reply = json::parse(request(json{
      {"op", "spawn"},
      {"name", process.name},
      {"argv", process.argv},
      {"log", process.log_file},
      {"directory", process.directory.string()},
      {"serial", process.serial.string()},
      {"descriptors", process.descriptors},
      {"epilogue", process.epilogue},
      {"needed_by", process.needed_by},
      {"restarts", process.restarts}}.dump()));
  const pid_t pid = reply.at("pid");
  // It may have been started anew by now.
  const pid_t current = incoming_->started.try_emplace(process.name, pid).first->second;
  // The end of an earlier process of this name may have arrived together with the answer.
  if (const auto old = incoming_->exits.find(process.name); old != incoming_->exits.end() && old->second.pid != current) {
    incoming_->exits.erase(old);
  }
  return pid;
}

void SupervisorConnection::rename(const std::string& process, const std::string& name) {
  const std::lock_guard lock(mutex_);
  (void)request(json{{"op", "rename"}, {"from", process}, {"to", name}}.dump());
  incoming_->exits.erase(name);
  incoming_->started.erase(name);
  if (auto started = incoming_->started.extract(process)) {
    started.key() = name;
    incoming_->started.insert(std::move(started));
  }
  if (auto exit = incoming_->exits.extract(process)) {
    exit.key() = name;
    exit.mapped().report.name = name;
    incoming_->exits.insert(std::move(exit));
  }
}

void SupervisorConnection::signal(const std::string& process, int number) {
  const std::lock_guard lock(mutex_);
  (void)request(json{{"op", "signal"}, {"name", process}, {"signal", number}}.dump());
}

std::optional<SupervisedExit> SupervisorConnection::wait_exit(const std::string& process, std::chrono::milliseconds timeout) {
  const Deadline deadline = Deadline::after(timeout);
  // Waited for without the lock, so that other threads' requests are not held up; one of them may read the report for us,
  // hence the short turns.
  constexpr std::chrono::milliseconds kTurn{20};
  const auto ended = [&] { return incoming_->exits.find(process); };
  const auto none = incoming_->exits.end();
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (ended() != none) return ended()->second.report;
      const bool open = read_messages(Deadline::after(std::chrono::seconds(0)));
      if (ended() != none) return ended()->second.report;
      if (!open) throw Error("the supervisor (process " + std::to_string(pid_) + ") is gone, and the VM with it");
    }
    if (deadline.expired()) return std::nullopt;
    (void)wait_readable(socket_.get(), deadline.earlier(Deadline::after(kTurn)));
  }
}

SupervisorStatus SupervisorConnection::status() {
  const std::lock_guard lock(mutex_);
  const json reply = json::parse(request(json{{"op", "status"}}.dump()));
  return {reply.at("name"),
          reply.at("pid"),
          reply.at("owned"),
          reply.at("kept"),
          reply.at("processes").get<std::map<std::string, pid_t>>(),
          reply.at("consoles").get<std::set<std::string>>()};
}

void SupervisorConnection::keep() {
  const std::lock_guard lock(mutex_);
  (void)request(json{{"op", "keep"}}.dump());
}

void SupervisorConnection::take_ownership() {
  const std::lock_guard lock(mutex_);
  (void)request(json{{"op", "own"}}.dump());
}

void SupervisorConnection::end(Evidence evidence) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    const Deadline deadline = Deadline::after(kEndTime);
    try {
      (void)request(json{{"op", "end"}, {"evidence", evidence == Evidence::Save}}.dump());
    } catch (const std::exception&) {  // gone already, or ended by somebody else at this moment
    }
    // The last thing that is left of the VM is the supervisor's own process.
    if (incoming_->process) (void)wait_readable(incoming_->process.get(), deadline);
  } catch (const std::exception&) {
  }
}

}  // namespace vmtest
