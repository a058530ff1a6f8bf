#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {

/// QEMU refused a command. The connection goes on.
class QmpError : public Error {
 public:
  QmpError(const std::string& command, std::string error_class, const std::string& description)
      : Error("QEMU refused " + command + ": " + description), error_class_(std::move(error_class)) {}

  /// QEMU's name for the kind of failure: "GenericError", "CommandNotFound", "DeviceNotFound" ...
  [[nodiscard]] const std::string& error_class() const { return error_class_; }

 private:
  std::string error_class_;
};

/// Something QEMU said unasked.
struct QmpEvent {
  std::string name;
  nlohmann::json data;
  /// When QEMU sent it, in microseconds since the epoch.
  std::int64_t timestamp_us = 0;
};

/// A connection to a QEMU by its machine protocol (QEMU's docs/interop/qmp-spec.rst). All calls may be made by several
/// threads at once: whoever waits reads for all. What is no QMP breaks the connection, and every later call throws with
/// the reason.
class QmpClient {
 public:
  /// Connects to the socket, reads the greeting and ends the negotiation. Throws std::system_error when nobody listens,
  /// Timeout, or Error when the peer is no QEMU.
  [[nodiscard]] static std::unique_ptr<QmpClient> connect(const std::filesystem::path& socket, const Deadline& deadline);
  /// The same over a connected socket.
  QmpClient(FileDescriptor socket, const Deadline& deadline);

  /// Runs a command and returns its result. Throws QmpError when QEMU refuses it, Timeout when no reply comes in time (a
  /// late one is dropped), Error when the connection is broken.
  nlohmann::json execute(const std::string& command, const nlohmann::json& arguments, const Deadline& deadline);
  nlohmann::json execute(const std::string& command, const Deadline& deadline) {
    return execute(command, nlohmann::json::object(), deadline);
  }
  /// Gives QEMU a copy of a descriptor under a name (`getfd`), for "fd:NAME" in later commands.
  void pass_descriptor(const std::string& name, int fd, const Deadline& deadline);

  /// Takes the first event, come or to come, that `wanted` accepts. Empty when the deadline passes first. Throws Error when
  /// the connection ends before it comes.
  [[nodiscard]] std::optional<QmpEvent> wait_event(const std::function<bool(const QmpEvent&)>& wanted, const Deadline& deadline);
  [[nodiscard]] std::optional<QmpEvent> wait_event(const std::string& name, const Deadline& deadline);
  /// Reads what has arrived, without waiting; also what a peer that is gone left behind.
  void read_pending();
  /// The newest event of that name which nobody took yet; it stays.
  [[nodiscard]] std::optional<QmpEvent> find_event(const std::string& name) const;

  /// Why the connection is of no use any more; empty while it is fine.
  [[nodiscard]] std::string broken() const;
  /// QEMU's version from its greeting: "7.2.22".
  [[nodiscard]] const std::string& version() const { return version_; }

 private:
  using Lock = std::unique_lock<std::mutex>;

  nlohmann::json run(const std::string& command, const nlohmann::json& arguments, int fd, const Deadline& deadline);
  /// Reads until `done` holds. False when the deadline passes first or the connection is broken.
  bool read_until(Lock& lock, const std::function<bool()>& done, const Deadline& deadline);
  void receive(std::string& data);
  void take_lines(const std::string& data);
  void take_message(const std::string& line);
  void take_event(const nlohmann::json& message);
  void take_reply(nlohmann::json message);
  void negotiate(const Deadline& deadline);
  void throw_if_broken() const;

  FileDescriptor socket_;
  std::string version_;
  std::mutex send_mutex_;
  /// Guards everything below.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool reading_ = false;
  bool greeted_ = false;
  std::string broken_;
  std::string buffer_;
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, nlohmann::json> replies_;
  std::set<std::uint64_t> awaited_;
  std::deque<QmpEvent> events_;
};

}  // namespace vmtest
