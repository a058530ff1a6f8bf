#include "io_thread.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <optional>
#include <utility>

#include "vmtest/deadline.h"
#include "vmtest/error.h"

namespace vmtest::ssh {
namespace {

// A command that was displaced or met a stale connection is started anew at most this often.
constexpr int kMostAttempts = 3;
constexpr const char* kClosed = "the SSH session was closed";

FileDescriptor make_eventfd() {
  FileDescriptor fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) throw_errno("eventfd");
  return fd;
}

void raise_event(const FileDescriptor& fd) { (void)::eventfd_write(fd.get(), 1); }

void clear_event(const FileDescriptor& fd) {
  eventfd_t value = 0;
  (void)::eventfd_read(fd.get(), &value);
}

}  // namespace

/// Somebody in connect().
struct IoThread::Waiter {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<ChannelEnd> result;

  void tell(ChannelEnd end) {
    const std::lock_guard lock(mutex);
    result = std::move(end);
    done.notify_all();
  }
};

IoThread::IoThread(SshOptions options, std::shared_ptr<SessionLog> log)
    : options_(std::move(options)),
      endpoint_(resolve(options_)),
      log_(std::move(log)),
      wake_(make_eventfd()),
      interrupt_(make_eventfd()) {
  thread_ = std::thread([this] { run(); });
}

IoThread::~IoThread() { shut_down(); }

void IoThread::wake() { raise_event(wake_); }

void IoThread::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (!closed_) {
      tasks_.push_back(std::move(task));
      if (tasks_.size() > 1) return;  // woken already
    }
  }
  wake();
}

std::shared_ptr<Channel> IoThread::open(ChannelRequest request, std::shared_ptr<ChannelListener> listener) {
  auto channel = std::make_shared<Channel>(std::move(request), std::move(listener));
  {
    const std::lock_guard lock(mutex_);
    if (!closed_) {
      tasks_.emplace_back([this, channel] { waiting_.push_back(channel); });
      if (tasks_.size() == 1) wake();
      return channel;
    }
  }
  channel->finish({ChannelEnd::Kind::NotConnected, kClosed});
  return channel;
}

void IoThread::send(const std::shared_ptr<Channel>& channel, std::string data) {
  post([channel, data = std::move(data)]() mutable { channel->send(std::move(data)); });
}

void IoThread::end_input(const std::shared_ptr<Channel>& channel) {
  post([channel] { channel->end_input(); });
}

void IoThread::resume(const std::shared_ptr<Channel>& channel) {
  post([channel] { channel->resume(); });
}

void IoThread::give_up(const std::shared_ptr<Channel>& channel) {
  post([channel] { channel->give_up(); });
}

void IoThread::add(std::shared_ptr<Pollable> pollable) {
  post([this, pollable = std::move(pollable)] { pollables_.push_back(pollable); });
}

void IoThread::connect() {
  const auto waiter = std::make_shared<Waiter>();
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw Error(kClosed);
    tasks_.emplace_back([this, waiter] { waiters_.push_back(waiter); });
  }
  wake();
  std::unique_lock lock(waiter->mutex);
  // The I/O thread keeps the deadline: it answers every waiter.
  waiter->done.wait(lock, [&] { return waiter->result.has_value(); });
  if (waiter->result->kind != ChannelEnd::Kind::Closed) waiter->result->raise();
}

std::vector<Step> IoThread::connect_steps() const {
  const std::lock_guard lock(mutex_);
  return connect_steps_;
}

void IoThread::reset() {
  raise_event(interrupt_);
  post([this] {
    clear_event(interrupt_);
    for (auto& connection : connections_) connection->declare_dead("the session was reset");
  });
}

void IoThread::shut_down() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  stop_ = true;
  raise_event(interrupt_);
  wake();
  if (thread_.joinable()) thread_.join();
}

void IoThread::run() {
  // Signals are for the program's own threads.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  while (!stop_) {
    run_tasks();
    bury_dead();  // a reset
    start_waiting();
    service_connections();
    bury_dead();
    connected_ = !connections_.empty();
    poll_all();
  }
  run_tasks();
  end_all({ChannelEnd::Kind::Lost, kClosed});
  connected_ = false;
}

void IoThread::run_tasks() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
}

void IoThread::service_connections() {
  for (auto& connection : connections_) {
    connection->service();
    for (auto& channel : connection->take_displaced()) waiting_.push_back(std::move(channel));
  }
}

void IoThread::bury_dead() {
  for (const auto& connection : connections_) {
    if (!connection->death().empty()) bury(*connection);
  }
  std::erase_if(connections_, [](const auto& connection) { return !connection->death().empty(); });
}

void IoThread::bury(Connection& connection) {
  log_->line("connection lost: " + connection.death());
  for (const auto& channel : connection.take_all()) {
    // What has not begun begins on a new connection: most likely this one was stale before it was used.
    if (!channel->may_have_run() && !channel->given_up() && !channel->open_refused() && channel->attempts < kMostAttempts &&
        connection.death() != "the session was reset") {
      channel->detach();
      waiting_.push_back(channel);
    } else {
      channel->finish({ChannelEnd::Kind::Lost, "the connection to the guest was lost: " + connection.death()});
    }
  }
}

Connection* IoThread::find_connection() {
  for (auto& connection : connections_) {
    if (!connection->full()) return connection.get();
  }
  std::vector<Step> steps;
  SessionPtr session = ssh::connect(options_, endpoint_, interrupt_.get(), *log_, steps);
  {
    const std::lock_guard lock(mutex_);
    connect_steps_ = std::move(steps);
  }
  connections_.push_back(std::make_unique<Connection>(std::move(session), options_));
  return connections_.back().get();
}

void IoThread::start_waiting() {
  std::erase_if(waiting_, [](const auto& channel) {
    if (channel->given_up()) channel->finish({});
    return channel->finished();
  });
  if (waiting_.empty() && waiters_.empty()) return;
  try {
    Connection* connection = connections_.empty() ? find_connection() : connections_.front().get();
    for (const auto& waiter : std::exchange(waiters_, {})) waiter->tell({});
    while (!waiting_.empty()) {
      const auto channel = waiting_.front();
      // A forwarded connection is no session and finds room everywhere.
      if (channel->request().kind != ChannelRequest::Kind::DirectTcp) connection = find_connection();
      waiting_.pop_front();
      if (!connection->add(channel)) channel->finish({ChannelEnd::Kind::NotConnected, "libssh cannot make a channel"});
    }
  } catch (const std::exception& error) {
    const auto kind =
        dynamic_cast<const Timeout*>(&error) != nullptr ? ChannelEnd::Kind::NotConnectedInTime : ChannelEnd::Kind::NotConnected;
    const ChannelEnd end{kind, error.what()};
    for (const auto& waiter : std::exchange(waiters_, {})) waiter->tell(end);
    for (const auto& channel : std::exchange(waiting_, {})) channel->finish(end);
  }
}

void IoThread::poll_all() {
  polled_.clear();
  polled_.push_back({wake_.get(), POLLIN, 0});
  auto due = Channel::Clock::time_point::max();
  for (const auto& connection : connections_) {
    polled_.push_back(connection->interest());
    due = std::min(due, connection->due());
  }
  const std::size_t first_pollable = polled_.size();
  for (const auto& pollable : pollables_) polled_.push_back(pollable->interest());
  if (!waiting_.empty() || !waiters_.empty()) due = Channel::Clock::now();

  const int timeout = due == Channel::Clock::time_point::max() ? -1 : Deadline::at(due).poll_timeout();
  if (::poll(polled_.data(), polled_.size(), timeout) <= 0) return;
  if (polled_.front().revents != 0) clear_event(wake_);
  // Pollables that one of these adds come behind the ones polled.
  for (std::size_t i = first_pollable; i < polled_.size(); ++i) {
    if (polled_[i].revents != 0) pollables_[i - first_pollable]->ready(polled_[i].revents);
  }
  std::erase_if(pollables_, [](const auto& pollable) { return pollable->finished(); });
}

void IoThread::end_all(const ChannelEnd& end) {
  for (const auto& waiter : std::exchange(waiters_, {})) waiter->tell({ChannelEnd::Kind::NotConnected, end.text});
  for (const auto& channel : std::exchange(waiting_, {})) channel->finish(end);
  for (const auto& connection : connections_) {
    for (const auto& channel : connection->take_all()) channel->finish(end);
  }
  connections_.clear();
  pollables_.clear();
}

}  // namespace vmtest::ssh
