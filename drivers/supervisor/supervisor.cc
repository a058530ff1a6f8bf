#include "supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <set>
#include <utility>

#include "platform.h"
#include "vmtest/error.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"

namespace vmtest::supervisor {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Longest wait for killed processes to be gone; only one stuck in the kernel takes longer than milliseconds.
constexpr std::chrono::seconds kKillTime{10};
/// Longest wait for an epilogue when the VM ends: halting a zone takes seconds.
constexpr std::chrono::seconds kEpilogueTime{30};
/// How soon a hypervisor's serial port is found, which nothing tells of.
constexpr int kPortPollMilliseconds = 5;
/// What is to be started anew each time it has served a connection, and ends sooner than a guest can boot, did not serve one.
constexpr std::chrono::seconds kShortLife{1};
constexpr int kMostShortLives = 5;
/// How much of a log's end goes into an exit report.
constexpr std::size_t kLastWordsBytes = 4096;
constexpr std::size_t kLastWordsLines = 15;

std::string last_words(const fs::path& log) { return last_lines(read_file_tail(log, kLastWordsBytes), kLastWordsLines); }

/// What is worth keeping of a work folder: what tells a story, not disks.
bool is_evidence(const fs::path& file) {
  static const std::set<std::string> kept = {".log", ".json", ".jsonl", ".txt", ".png", ".ppm"};
  return kept.count(file.extension().string()) != 0;
}

void move_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
}

}  // namespace

Supervisor::Supervisor(Options options, FileDescriptor owner)
    : options_(std::move(options)), console_(options_.work_dir / kConsoleLog, options_.runtime_dir / kConsoleSocket) {
  become_reaper();
  signals_ = open_signals({SIGCHLD, SIGTERM, SIGINT, SIGHUP});
  watch_owner(options_.owner_pid, options_.owner_start_time);
  add_connection(std::move(owner));
  connections_.back().owner = true;
  try {
    if (!make_folder(options_.work_dir)) {
      throw Error("a VM named \"" + options_.name + "\" exists already in " + options_.work_dir.string() +
                  "; choose another name, or end it by: vmtest stop " + options_.name +
                  ", or, if a crash left it, by: vmtest gc");
    }
    if (!make_folder(options_.runtime_dir)) {
      throw Error("the folder for sockets exists already: " + options_.runtime_dir.string() + "; remove it by: vmtest gc");
    }
    listener_ = listen_unix(options_.runtime_dir / "supervisor.sock");
  } catch (...) {
    remove_folders();
    throw;
  }
}

Supervisor::~Supervisor() = default;

void Supervisor::run() {
  json greeting = status();
  greeting["ok"] = true;
  try {
    send(connections_.front().socket.get(), greeting);
  } catch (const std::exception&) {
    owner_is_gone();
  }
  try {
    while (!ending_) wait_for_something();
  } catch (const std::exception& error) {  // whatever it is, nothing may be left
    save_evidence_ = true;
    cause_ = std::string("its supervisor failed: ") + error.what();
  }
  end_processes();
  if (save_evidence_) save_evidence();
  remove_folders();
  held_.clear();
  for (Connection& connection : connections_) {
    if (!connection.wants_end_reply) continue;
    try {
      send(connection.socket.get(), {{"ok", true}});
    } catch (const std::exception&) {  // it did not wait for the answer
    }
  }
}

bool Supervisor::make_folder(const fs::path& folder) {
  fs::create_directories(folder.parent_path());
  if (::mkdir(folder.c_str(), 0700) == 0) {
    folders_.push_back(folder);
    return true;
  }
  if (errno == EEXIST) return false;
  throw_errno("cannot make the folder " + folder.string());
}

void Supervisor::add_connection(FileDescriptor socket) {
  // Who does not read must not keep us from looking after the VM.
  set_nonblocking(socket.get());
  connections_.push_back({std::move(socket), {}, false, false});
}

void Supervisor::wait_for_something() {
  std::vector<pollfd> entries = {{signals_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}, {owner_process_.get(), POLLIN, 0}};
  for (const Connection& connection : connections_) entries.push_back({connection.socket.get(), POLLIN, 0});
  const bool awaits_port = console_.connect();
  const std::size_t console = entries.size();
  console_.append_to(entries);
  if (::poll(entries.data(), entries.size(), awaits_port ? kPortPollMilliseconds : -1) < 0 && errno != EINTR) throw_errno("poll");

  for (std::size_t i = console; i < entries.size(); ++i) console_.serve(entries[i]);
  if (entries[0].revents != 0) {
    for (const int number : read_signals(signals_.get())) {
      if (number == SIGCHLD) continue;
      ending_ = true;
      save_evidence_ = true;
      cause_ = std::string("the supervisor was told to end by signal ") + std::to_string(number);
    }
    reap();
  }
  if (entries[2].revents != 0) owner_is_gone();
  std::size_t at = 3;
  for (auto it = connections_.begin(); it != connections_.end(); ++at) {
    bool alive = true;
    if (entries[at].revents != 0) {
      try {
        alive = it->lines.receive(it->socket.get());
        serve(*it);
      } catch (const std::exception&) {
        alive = false;  // garbage or a broken connection: the same as its end
      }
    }
    const bool was_owner = it->owner;
    it = alive ? std::next(it) : connections_.erase(it);
    if (!alive && was_owner) owner_is_gone();
  }
  if (entries[1].revents != 0) {
    if (auto socket = accept_connection(listener_.get())) add_connection(std::move(*socket));
  }
}

void Supervisor::serve(Connection& connection) {
  while (const auto request = connection.lines.next()) {
    json reply;
    try {
      reply = answer(connection, *request);
    } catch (const std::exception& error) {
      reply = {{"ok", false}, {"error", error.what()}};
    }
    if (!connection.wants_end_reply) send(connection.socket.get(), reply);
  }
}

json Supervisor::answer(Connection& connection, const json& request) {
  const std::string op = request.at("op");
  if (op == "status") return status();
  if (op == "spawn") return spawn(request);
  if (op == "rename") return rename(request.at("from"), request.at("to"));
  if (op == "hold") {
    FileDescriptor fd = connection.lines.take_descriptor();
    if (!fd) throw Error("no descriptor came with the request");
    held_[request.at("name")] = std::move(fd);
    return {{"ok", true}};
  }
  if (op == "release") {
    held_.erase(request.at("name").get<std::string>());
    return {{"ok", true}};
  }
  if (op == "signal") {
    const auto child = children_.find(request.at("name"));
    if (child == children_.end()) throw Error("no process " + request.at("name").dump());
    const bool runs = !child->second.status && !child->second.ended;
    if (runs) ::kill(-child->second.process.pid(), request.at("signal").get<int>());
    return {{"ok", true}};
  }
  if (op == "keep") {
    kept_ = true;
    return {{"ok", true}};
  }
  if (op == "own") {
    const bool owned = std::any_of(connections_.begin(), connections_.end(), [](const Connection& c) { return c.owner; });
    if (owned) throw Error("the VM has an owner: process " + std::to_string(options_.owner_pid));
    connection.owner = true;
    kept_ = false;
    watch_owner(peer_pid(connection.socket.get()), std::nullopt);
    return {{"ok", true}};
  }
  if (op == "end") {
    ending_ = true;
    save_evidence_ = request.value("evidence", false);
    cause_ = "the VM was ended by request of process " + std::to_string(peer_pid(connection.socket.get()));
    connection.wants_end_reply = true;
    return {};
  }
  throw Error("unknown request \"" + op + "\"");
}

json Supervisor::spawn(const json& request) {
  const std::string name = request.at("name");
  const auto old = children_.find(name);
  if (old != children_.end() && !old->second.status) throw Error("process \"" + name + "\" is running already");
  const fs::path log = options_.work_dir / fs::path(request.at("log").get<std::string>()).filename();
  const FileDescriptor output = open_file(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
  ProcessOptions process;
  process.argv = request.at("argv").get<std::vector<std::string>>();
  const std::string directory = request.value("directory", std::string());
  process.working_directory = directory.empty() ? options_.work_dir : fs::path(directory);
  process.standard_output = output.get();
  process.standard_error = output.get();
  for (const auto& [held, number] : request.at("descriptors").get<std::vector<std::pair<std::string, int>>>()) {
    const auto fd = held_.find(held);
    if (fd == held_.end()) throw Error("no descriptor \"" + held + "\" is held");
    process.pass_descriptors.emplace_back(fd->second.get(), number);
  }
  const std::string serial = request.value("serial", std::string());
  if (!serial.empty()) console_.add(name, process.working_directory / serial);
  std::optional<Child> started;
  try {
    started.emplace(Child{ChildProcess::start(process), log});
  } catch (...) {
    console_.remove(name);
    throw;
  }
  Child& child = *started;
  child.epilogue = request.value("epilogue", std::vector<std::string>());
  child.needed_by = request.value("needed_by", std::string());
  if (request.value("restarts", false)) {
    Restart& restart = child.restart.emplace();
    restart.options = process;
    for (auto& [fd, number] : restart.options.pass_descriptors) {
      restart.descriptors.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
      if (!restart.descriptors.back()) throw_errno("cannot keep a descriptor of " + name);
      fd = restart.descriptors.back().get();
    }
  }
  const pid_t pid = child.process.pid();
  children_[name] = std::move(*started);
  return {{"ok", true}, {"pid", pid}};
}

json Supervisor::rename(const std::string& from, const std::string& to) {
  const auto old = children_.find(to);
  if (old != children_.end() && !old->second.status) throw Error("process \"" + to + "\" is running still");
  auto child = children_.extract(from);
  if (child.empty()) throw Error("no process \"" + from + "\"");
  children_.erase(to);
  child.key() = to;
  children_.insert(std::move(child));
  console_.rename(from, to);
  return {{"ok", true}};
}

json Supervisor::status() const {
  json processes = json::object();
  json ended = json::array();
  for (const auto& [name, child] : children_) {
    if (child.status) ended.push_back(exit_event(name));
    else processes[name] = child.process.pid();
  }
  const bool owned = std::any_of(connections_.begin(), connections_.end(), [](const Connection& c) { return c.owner; });
  return {{"ok", true},
          {"protocol", kProtocolVersion},
          {"version", VMTEST_VERSION},
          {"name", options_.name},
          {"pid", ::getpid()},
          {"start_time", process_start_time(::getpid()).value_or(0)},
          {"owned", owned},
          {"kept", kept_},
          {"processes", processes},
          {"consoles", console_.connected()},
          {"ended", ended}};
}

json Supervisor::exit_event(const std::string& name) const {
  const Child& child = children_.at(name);
  json event = {{"event", "exited"},
                {"name", name},
                {"pid", child.process.pid()},
                {"code", child.status->code},
                {"signal", child.status->signal},
                {"told", child.told},
                {"last_words", last_words(child.log)}};
  if (!child.cause.is_null()) event["cause"] = child.cause;
  return event;
}

void Supervisor::reap() {
  for (auto& [name, child] : children_) {
    if (child.status) continue;
    child.status = poll(child);
    if (!child.status || start_anew(name, child)) continue;
    console_.remove(name);
    end_dependents(name);
    child.restart.reset();
    tell(exit_event(name));
  }
  reap_strays([this](pid_t pid) {
    return std::any_of(children_.begin(), children_.end(), [pid](const auto& entry) {
      const Child& child = entry.second;
      return !child.status && (child.process.pid() == pid || child.undoing.pid() == pid);
    });
  });
}

void Supervisor::tell(const json& event) {
  for (Connection& connection : connections_) {
    try {
      send(connection.socket.get(), event);
    } catch (const std::exception&) {
      ::shutdown(connection.socket.get(), SHUT_RDWR);  // gone, or it does not read: poll will tell
    }
  }
}

bool Supervisor::start_anew(const std::string& name, Child& child) {
  if (!child.restart || !child.status->ok() || child.told) return false;
  const auto client = children_.find(child.needed_by);
  if (client == children_.end() || client->second.status || client->second.ended || !client->second.cause.is_null()) return false;
  Restart& restart = *child.restart;
  const auto now = std::chrono::steady_clock::now();
  restart.short_lives = now - restart.started < kShortLife ? restart.short_lives + 1 : 0;
  restart.started = now;
  if (restart.short_lives > kMostShortLives) return false;
  try {
    const FileDescriptor output = open_file(child.log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    restart.options.standard_output = output.get();
    restart.options.standard_error = output.get();
    child.process = ChildProcess::start(restart.options);
  } catch (const std::exception&) {  // its end is told, and who needs it ends
    return false;
  }
  child.status.reset();
  tell({{"event", "restarted"}, {"name", name}, {"pid", child.process.pid()}});
  return true;
}

void Supervisor::end_dependents(const std::string& name) {
  const Child& gone = children_.at(name);
  for (auto& [other, child] : children_) {
    if (child.status || child.ended) continue;
    if (other == gone.needed_by && (!gone.status->ok() || gone.restart) && child.cause.is_null()) {
      child.cause = exit_event(name);
      ::kill(-child.process.pid(), SIGKILL);
    }
    if (child.needed_by == name) {
      child.told = true;
      ::kill(-child.process.pid(), SIGTERM);
    }
  }
}

ChildProcess Supervisor::start_epilogue(const Child& child) const {
  const FileDescriptor output = open_file(child.log, O_WRONLY | O_CREAT | O_APPEND, 0600);
  ProcessOptions process;
  process.argv = child.epilogue;
  process.working_directory = options_.work_dir;
  process.standard_output = output.get();
  process.standard_error = output.get();
  return ChildProcess::start(process);
}

std::optional<ExitStatus> Supervisor::poll(Child& child) {
  if (!child.ended) {
    const auto status = child.process.poll();
    if (!status || child.epilogue.empty()) return status;
    child.ended = status;
    try {
      child.undoing = start_epilogue(child);
    } catch (const std::exception&) {  // a full disk or process table; it is tried once more at the VM's end
      return child.ended;
    }
  }
  if (!child.undoing.poll()) return std::nullopt;
  child.epilogue.clear();
  return child.ended;
}

void Supervisor::finish_epilogues() {
  // All are reaped by now; an object that knows it will not signal a number that may be another's by the time it goes.
  for (auto& [name, child] : children_) {
    (void)child.process.poll();
    (void)child.undoing.poll();
  }
  for (auto& [name, child] : children_) {
    if (child.epilogue.empty()) continue;
    try {
      ChildProcess undoing = start_epilogue(child);
      (void)undoing.wait(Deadline::after(kEpilogueTime));
    } catch (const std::exception&) {  // the rest must go all the same
    }
  }
}

void Supervisor::watch_owner(pid_t pid, std::optional<unsigned long long> start_time) {
  options_.owner_pid = pid;
  owner_process_ = try_open_pidfd(pid);
  const bool same = !start_time || process_start_time(pid) == *start_time;
  if (!owner_process_ || !same) {
    ending_ = true;
    save_evidence_ = true;
    cause_ = "its owner was gone before the VM was made";
  }
}

void Supervisor::owner_is_gone() {
  owner_process_.reset();
  for (Connection& connection : connections_) connection.owner = false;
  if (kept_ || ending_) return;
  ending_ = true;
  save_evidence_ = true;
  cause_ = "its owner, process " + std::to_string(options_.owner_pid) + ", ended without a goodbye";
}

void Supervisor::end_processes() {
  for (auto& [name, child] : children_) {
    if (!child.status && !child.ended) ::kill(-child.process.pid(), SIGKILL);
  }
  const Deadline deadline = Deadline::after(kKillTime);
  // Descendants that left their group, or came to us because their parent died, go as well: as a sub-reaper we are the
  // parent of all that is left once their parents are dead.
  while (kill_and_reap_children() && !deadline.expired()) {
    pollfd entry{signals_.get(), POLLIN, 0};
    ::poll(&entry, 1, deadline.poll_timeout(std::chrono::milliseconds(50)));
    if (entry.revents != 0) (void)read_signals(signals_.get());
  }
  finish_epilogues();
  for (const auto& [name, child] : children_) console_.remove(name);
  children_.clear();
}

void Supervisor::save_evidence() {
  if (options_.evidence_dir.empty()) return;
  std::error_code error;
  const fs::path target = options_.evidence_dir / options_.name;
  fs::create_directories(target, error);
  if (error) return;
  for (const auto& entry : fs::directory_iterator(options_.work_dir, error)) {
    if (entry.is_regular_file(error) && is_evidence(entry.path())) move_file(entry.path(), target / entry.path().filename());
  }
  const std::time_t now = std::time(nullptr);
  char when[32] = {};
  std::strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  try {
    write_file(target / "end.txt", std::string(when) + " VM \"" + options_.name + "\" was ended because " + cause_ + "\n");
  } catch (const std::exception&) {  // a full disk must not keep us from cleaning up
  }
}

void Supervisor::remove_folders() {
  std::error_code ignored;
  listener_.reset();
  for (const fs::path& folder : folders_) fs::remove_all(folder, ignored);
}

}  // namespace vmtest::supervisor
