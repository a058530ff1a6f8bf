#include "qmp_client.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "vmtest/host/socket.h"

namespace vmtest {
namespace {

using nlohmann::json;

/// Longest line taken; the longest real one (query-qmp-schema) has a fifth of a megabyte.
constexpr std::size_t kLongestLine = 16U << 20;
/// Events kept for a reader; older ones are dropped. QEMU limits the rate of its frequent ones itself.
constexpr std::size_t kMostEvents = 1024;
/// A QEMU that takes no input for so long is stuck.
constexpr timeval kSendTime{10, 0};

std::string shortened(const std::string& line) {
  constexpr std::size_t kShown = 120;
  return line.size() <= kShown ? line : line.substr(0, kShown) + "...";
}

}  // namespace

std::unique_ptr<QmpClient> QmpClient::connect(const std::filesystem::path& socket, const Deadline& deadline) {
  return std::make_unique<QmpClient>(connect_unix(socket), deadline);
}

QmpClient::QmpClient(FileDescriptor socket, const Deadline& deadline) : socket_(std::move(socket)) {
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &kSendTime, sizeof kSendTime);
  negotiate(deadline);
}

void QmpClient::negotiate(const Deadline& deadline) {
  {
    Lock lock(mutex_);
    if (!read_until(
            lock, [this] { return greeted_; }, deadline)) {
      throw_if_broken();
      throw Timeout("QEMU's machine protocol did not greet in time");
    }
  }
  (void)execute("qmp_capabilities", deadline);
}

json QmpClient::execute(const std::string& command, const json& arguments, const Deadline& deadline) {
  return run(command, arguments, -1, deadline);
}

void QmpClient::pass_descriptor(const std::string& name, int fd, const Deadline& deadline) {
  (void)run("getfd", {{"fdname", name}}, fd, deadline);
}

json QmpClient::run(const std::string& command, const json& arguments, int fd, const Deadline& deadline) {
  std::uint64_t id = 0;
  {
    const Lock lock(mutex_);
    throw_if_broken();
    id = next_id_++;
    awaited_.insert(id);
  }
  json message = {{"execute", command}, {"id", id}};
  if (!arguments.empty()) message["arguments"] = arguments;
  std::string send_failure;
  try {
    const std::lock_guard sending(send_mutex_);
    send_message(socket_.get(), message.dump() + "\n", fd);
  } catch (const std::system_error& error) {
    send_failure = error.what();
  }

  Lock lock(mutex_);
  if (!send_failure.empty()) {
    // A peer that is gone may have left its last events; those are worth more than the failure.
    if (broken_.empty()) broken_ = "QEMU takes no commands any more: " + send_failure;
    changed_.notify_all();
    throw_if_broken();
  }
  const bool answered = read_until(
      lock, [&] { return replies_.count(id) != 0; }, deadline);
  awaited_.erase(id);
  if (!answered) {
    throw_if_broken();
    throw Timeout("QEMU did not answer " + command + " in time");
  }
  json reply = std::move(replies_.extract(id).mapped());
  if (reply.contains("error")) {
    const json& error = reply["error"];
    throw QmpError(command, error.value("class", ""), error.value("desc", "without a reason"));
  }
  return std::move(reply["return"]);
}

std::optional<QmpEvent> QmpClient::wait_event(const std::function<bool(const QmpEvent&)>& wanted, const Deadline& deadline) {
  Lock lock(mutex_);
  auto found = events_.end();
  const auto look = [&] {
    found = std::find_if(events_.begin(), events_.end(), wanted);
    return found != events_.end();
  };
  if (!read_until(lock, look, deadline)) {
    throw_if_broken();
    return std::nullopt;
  }
  QmpEvent event = std::move(*found);
  events_.erase(found);
  return event;
}

std::optional<QmpEvent> QmpClient::wait_event(const std::string& name, const Deadline& deadline) {
  return wait_event([&](const QmpEvent& event) { return event.name == name; }, deadline);
}

void QmpClient::read_pending() {
  Lock lock(mutex_);
  // Ends when nothing is there to read: the deadline has passed from the start.
  (void)read_until(
      lock, [] { return false; }, Deadline::after(std::chrono::nanoseconds(0)));
}

std::optional<QmpEvent> QmpClient::find_event(const std::string& name) const {
  const Lock lock(mutex_);
  const auto found = std::find_if(events_.rbegin(), events_.rend(), [&](const QmpEvent& event) { return event.name == name; });
  if (found == events_.rend()) return std::nullopt;
  return *found;
}

std::string QmpClient::broken() const {
  const Lock lock(mutex_);
  return broken_;
}

bool QmpClient::read_until(Lock& lock, const std::function<bool()>& done, const Deadline& deadline) {
  while (!done()) {
    if (!broken_.empty()) return false;
    if (reading_) {
      // Somebody else reads; each message it takes wakes us.
      if (changed_.wait_until(lock, deadline.time_point()) == std::cv_status::timeout && !done()) return false;
      continue;
    }
    reading_ = true;
    lock.unlock();
    std::string data;
    std::string failure;
    bool readable = false;
    try {
      readable = wait_readable(socket_.get(), deadline);
      if (readable) receive(data);
    } catch (const std::system_error& error) {
      failure = error.what();
    }
    lock.lock();
    reading_ = false;
    if (!failure.empty()) {
      broken_ = "the connection to QEMU failed: " + failure;
    } else if (readable && data.empty()) {
      broken_ = "QEMU closed its connection";
    } else if (readable) {
      take_lines(data);
    }
    changed_.notify_all();
    if (!readable && failure.empty()) return done();
  }
  return true;
}

void QmpClient::receive(std::string& data) {
  std::vector<FileDescriptor> unexpected;
  (void)receive_some(socket_.get(), data, unexpected);
}

void QmpClient::take_lines(const std::string& data) {
  std::size_t looked_at = buffer_.size();
  buffer_ += data;
  std::size_t begin = 0;
  for (std::size_t end = 0; broken_.empty() && (end = buffer_.find('\n', looked_at)) != std::string::npos;) {
    take_message(buffer_.substr(begin, end - begin));
    begin = looked_at = end + 1;
  }
  buffer_.erase(0, begin);
  if (buffer_.size() > kLongestLine && broken_.empty()) {
    broken_ = "QEMU sent a line of more than " + std::to_string(kLongestLine >> 20) + " MiB";
    buffer_.clear();
  }
}

void QmpClient::take_message(const std::string& line) {
  if (line.find_first_not_of(" \t\r") == std::string::npos) return;
  json message = json::parse(line, nullptr, false);
  try {
    if (!message.is_object()) throw Error("no object");
    if (!greeted_) {
      const json& version = message.at("QMP").at("version").at("qemu");
      version_ = std::to_string(version.at("major").get<int>()) + "." + std::to_string(version.at("minor").get<int>()) + "." +
                 std::to_string(version.at("micro").get<int>());
      greeted_ = true;
    } else if (message.contains("event")) {
      take_event(message);
    } else {
      take_reply(std::move(message));
    }
  } catch (const std::exception&) {
    broken_ = "the peer does not speak QEMU's machine protocol; it sent: " + shortened(line);
  }
}

void QmpClient::take_event(const json& message) {
  QmpEvent event;
  event.name = message.at("event");
  if (message.contains("data")) event.data = message.at("data");
  if (message.contains("timestamp")) {
    const json& time = message.at("timestamp");
    event.timestamp_us = time.at("seconds").get<std::int64_t>() * 1'000'000 + time.at("microseconds").get<std::int64_t>();
  }
  if (events_.size() >= kMostEvents) events_.pop_front();
  events_.push_back(std::move(event));
}

void QmpClient::take_reply(json message) {
  if (!message.contains("return") && !message.at("error").is_object()) throw Error("neither result nor error");
  const std::uint64_t id = message.at("id");
  if (id == 0 || id >= next_id_) throw Error("an answer to nothing asked");
  // Not awaited any more: its caller gave up.
  if (awaited_.count(id) != 0) replies_[id] = std::move(message);
}

void QmpClient::throw_if_broken() const {
  if (!broken_.empty()) throw Error(broken_);
}

}  // namespace vmtest
