#include "server.h"

#include <fcntl.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <thread>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"

namespace vmtest::propolis {
namespace {

namespace fs = std::filesystem;

/// Others may take a port between our choice and the server's use of it.
constexpr int kMostPorts = 5;
constexpr std::chrono::milliseconds kPoll{20};
/// A server that was told to end has its guest killed already.
constexpr std::chrono::seconds kEndTime{3};
constexpr std::size_t kShownBytes = 16384;
constexpr std::size_t kShownLines = 12;

/// A line of its log (bunyan: a JSON object) in a person's words.
std::string readable(const std::string& line) {
  const nlohmann::json entry = nlohmann::json::parse(line, nullptr, false);
  if (!entry.is_object() || !entry.contains("msg")) return line;
  std::string text = entry["msg"].is_string() ? entry["msg"].get<std::string>() : entry["msg"].dump();
  for (const char* key : {"response_code", "uri", "error_message_internal", "error", "text", "status"}) {
    if (const auto found = entry.find(key); found != entry.end())
      text += std::string(", ") + key + ": " + (found->is_string() ? found->get<std::string>() : found->dump());
  }
  return text;
}

}  // namespace

Server::Server(const RunPlan& plan) : plan_(plan), port_(plan.port) {
  if (plan_.program.empty()) {
    await_fresh();
    return;
  }
  for (int i = 1;; ++i) {
    try {
      start_own();
      return;
    } catch (const Timeout&) {
      throw;
    } catch (const Error&) {
      if (i == kMostPorts || !port_was_taken()) throw;
    }
  }
}

Server::~Server() {
  if (process_.pid() <= 0 || process_.poll()) return;
  process_.signal(SIGTERM);
  if (!process_.wait(Deadline::after(kEndTime))) process_.kill_group();
}

void Server::start_own() {
  port_ = ephemeral_port();
  const FileDescriptor log = open_file(plan_.server_log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
  ProcessOptions options;
  options.argv = {plan_.program.string(), "run", plan_.bootrom.string(), plan_.host + ":" + std::to_string(port_)};
  options.standard_output = log.get();
  options.standard_error = log.get();
  process_ = ChildProcess::start(options);
  await_fresh();
}

void Server::await_fresh() {
  const Deadline deadline = Deadline::after(plan_.patience);
  std::string why = "nobody listens";
  bool held = false;
  for (;;) {
    if (const auto status = ended()) {
      throw Error("propolis-server ended before it was up, with " + vmtest::to_string(*status) + last_words());
    }
    try {
      api_.emplace(plan_.host, port_, ApiClient::negotiate(plan_.host, port_, deadline));
      const auto state = api_->find_state(deadline);
      if (process_.pid() > 0 && !is_ours()) {
        why = "the port is another's";
        if (process_.wait(Deadline::after(kEndTime))) continue;  // it has noticed, too
        throw Error("the propolis-server on port " + std::to_string(port_) + " is another's");
      }
      // One whose VM has ended takes another.
      if (!state || *state == State::Destroyed || *state == State::Failed) return;
      held = true;
      why = "it holds another instance, which is " + std::string(to_string(*state));
    } catch (const std::system_error&) {  // not yet
    } catch (const Timeout&) {
      if (!held) why = "it does not answer";
    }
    if (deadline.expired()) {
      throw Timeout("there was no propolis-server that would take an instance at " + plan_.host + ":" + std::to_string(port_) +
                    " within " + std::to_string(plan_.patience.count()) + " s: " + why +
                    (held ? "; a server serves one VM at a time" : "") + last_words());
    }
    std::this_thread::sleep_for(kPoll);
  }
}

std::optional<ExitStatus> Server::ended() { return process_.pid() > 0 ? process_.poll() : std::nullopt; }

bool Server::port_was_taken() const {
  const std::string words = read_file_tail(plan_.server_log, kShownBytes);
  return words.find("ddress already in use") != std::string::npos || words.find("ddress in use") != std::string::npos;
}

bool Server::is_ours() const {
  char wanted[16];
  std::snprintf(wanted, sizeof wanted, ":%04X", static_cast<unsigned>(port_));
  std::error_code error;
  // Other systems do not tell; the port was free a moment ago.
  if (!fs::exists("/proc/net/tcp", error)) return true;
  std::istringstream table(read_file("/proc/net/tcp"));
  std::string line;
  std::string inode;
  while (inode.empty() && std::getline(table, line)) {
    // "sl local remote state queues timer retransmits uid timeout inode"; 0A is a listener's state.
    std::istringstream fields(line);
    std::string sl, local, remote, state, queues, timer, retransmits, uid, timeout, number;
    fields >> sl >> local >> remote >> state >> queues >> timer >> retransmits >> uid >> timeout >> number;
    const bool same = local.size() > 5 && local.compare(local.size() - 5, 5, wanted) == 0;
    if (same && state == "0A") inode = number;
  }
  if (inode.empty()) return true;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(process_.pid()) + "/fd", error)) {
    if (fs::read_symlink(entry.path(), error) == "socket:[" + inode + "]") return true;
  }
  return false;
}

std::string Server::last_words() const {
  if (plan_.server_log.empty()) return "";
  std::istringstream lines(last_lines(read_file_tail(plan_.server_log, kShownBytes), kShownLines));
  std::string text;
  for (std::string line; std::getline(lines, line);) text += "\n  " + sanitize_console(readable(line));
  return text.empty() ? "" : "\nIts log ends with:" + text;
}

}  // namespace vmtest::propolis
