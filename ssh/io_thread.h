#pragma once

#include <poll.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "channel.h"
#include "connection.h"
#include "connector.h"
#include "session_log.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/ssh_session.h"

namespace vmtest::ssh {

/// A descriptor that the I/O thread waits on beside its connections (a forwarded port). For the I/O thread only.
class Pollable {
 public:
  virtual ~Pollable() = default;
  /// What to wait for; descriptor -1 for nothing.
  [[nodiscard]] virtual pollfd interest() = 0;
  virtual void ready(short events) = 0;
  /// The I/O thread forgets it.
  [[nodiscard]] virtual bool finished() const = 0;
};

/// The one thread that talks to the guest's SSH server, and what it talks over. All functions may be called by any thread,
/// the I/O thread itself included, unless they say otherwise.
class IoThread {
 public:
  /// Throws Error. Does not connect.
  IoThread(SshOptions options, std::shared_ptr<SessionLog> log);
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;
  ~IoThread();

  /// Opens a channel, connecting first where needed. The listener hears how it went.
  [[nodiscard]] std::shared_ptr<Channel> open(ChannelRequest request, std::shared_ptr<ChannelListener> listener);
  void send(const std::shared_ptr<Channel>& channel, std::string data);
  void end_input(const std::shared_ptr<Channel>& channel);
  /// The listener is no longer full.
  void resume(const std::shared_ptr<Channel>& channel);
  /// Closes the channel; its listener may still hear of it until `closed`.
  void give_up(const std::shared_ptr<Channel>& channel);
  void add(std::shared_ptr<Pollable> pollable);
  /// Runs `task` on the I/O thread, soon.
  void post(std::function<void()> task);

  /// Waits for a connection. Not on the I/O thread. Throws as SshSession::connect() does.
  void connect();
  /// See SshSession::connect_steps().
  [[nodiscard]] std::vector<Step> connect_steps() const;
  /// Drops all connections and a running attempt to connect.
  void reset();
  /// Ends everything and the thread; not on the I/O thread. What is asked for later ends with "closed" at once.
  void shut_down();
  [[nodiscard]] bool connected() const { return connected_; }
  /// Whether the caller is the I/O thread (an output callback that calls the guest, which cannot work).
  [[nodiscard]] bool on_io_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

 private:
  struct Waiter;

  void run();
  void run_tasks();
  void start_waiting();
  [[nodiscard]] Connection* find_connection();
  void service_connections();
  void poll_all();
  void end_all(const ChannelEnd& end);
  void bury(Connection& connection);
  void bury_dead();
  void wake();

  const SshOptions options_;
  const Endpoint endpoint_;
  const std::shared_ptr<SessionLog> log_;
  FileDescriptor wake_;       // eventfd: there are tasks
  FileDescriptor interrupt_;  // eventfd: stop connecting
  std::atomic<bool> stop_ = false;
  std::atomic<bool> connected_ = false;

  mutable std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;
  bool closed_ = false;
  std::vector<Step> connect_steps_;

  // The I/O thread's own.
  std::vector<std::unique_ptr<Connection>> connections_;
  std::deque<std::shared_ptr<Channel>> waiting_;
  std::vector<std::shared_ptr<Pollable>> pollables_;
  std::vector<std::shared_ptr<Waiter>> waiters_;
  std::vector<pollfd> polled_;

  std::thread thread_;  // last: started when everything else is there
};

}  // namespace vmtest::ssh
