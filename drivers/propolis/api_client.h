#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/error.h"
#include "vmtest/host/http_client.h"

namespace vmtest::propolis {

/// propolis-server refused a request: `what()` has its own words.
class Refused : public Error {
 public:
  Refused(int status, std::string code, const std::string& what) : Error(what), status_(status), code_(std::move(code)) {}
  /// HTTP's: 424 without an instance, 409 for a second one, 403 for a change that is not allowed, 410 when it is gone.
  [[nodiscard]] int status() const { return status_; }
  /// The server's word for it, "NoInstance"; empty when it gave none.
  [[nodiscard]] const std::string& code() const { return code_; }

 private:
  int status_;
  std::string code_;
};

/// States of an instance, as the API names them.
enum class State { Creating, Starting, Running, Stopping, Stopped, Rebooting, Migrating, Repairing, Failed, Destroyed };
[[nodiscard]] std::string_view to_string(State state);

enum class Change { Run, Stop, Reboot };

/// What the state monitor tells.
struct StateChange {
  /// Grows with each change; waiting for the one after it is waiting for the next change.
  std::uint64_t generation = 0;
  State state = State::Creating;
};

/// A piece of what the guest has printed.
struct SerialHistory {
  std::string data;
  /// Where the piece ends, counted from the boot: the next piece begins there.
  std::uint64_t end = 0;
};

/// The one header that every request needs, a WebSocket's too.
inline constexpr const char* kVersionHeader = "api-version";
/// The newest version of the interface that is known here, and the oldest.
inline constexpr const char* kNewestVersion = "5.0.0";
inline constexpr const char* kOldestVersion = "1.0.0";

/// propolis-server's API (https://github.com/oxidecomputer/propolis, openapi/propolis-server), one call an endpoint: all that a
/// client uses of 5.0.0. Left out is what servers use among themselves (/instance/migrate/{id}/start). All throw Refused
/// when it refuses, Timeout when it does not answer by the deadline, std::system_error when nobody listens and Error when what
/// comes is no answer. May be used by several threads at once.
class ApiClient {
 public:
  ApiClient(std::string host, std::uint16_t port, std::string version = kNewestVersion)
      : http_(HttpClient::tcp(std::move(host), port)), version_(std::move(version)) {}

  [[nodiscard]] const std::string& version() const { return version_; }
  [[nodiscard]] std::string address() const { return http_.address(); }

  /// The newest version known here that the server at that address offers. Throws Error when it offers none of them.
  [[nodiscard]] static std::string negotiate(const std::string& host, std::uint16_t port, const Deadline& deadline);

  /// Makes the instance; the body is that of instance_body(). It does not run yet.
  void ensure(const std::string& body, const Deadline& deadline) const;
  /// The state of the instance; empty when there has been none.
  [[nodiscard]] std::optional<State> find_state(const Deadline& deadline) const;
  /// Properties and state of the instance, as the server says them.
  [[nodiscard]] nlohmann::json instance(const Deadline& deadline) const;
  /// Its specification; the form differs between 1.0.0 and later versions.
  [[nodiscard]] nlohmann::json spec(const Deadline& deadline) const;
  /// Neither Stop nor Reboot is told to the guest's software.
  void change_state(Change change, const Deadline& deadline) const;
  /// Returns when the instance has reached that generation, at once when it has passed it. Refused with 410 when it never will.
  [[nodiscard]] StateChange monitor_state(std::uint64_t generation, const Deadline& deadline) const;
  /// What the guest printed from that byte on, at most `max_bytes` of it.
  [[nodiscard]] SerialHistory serial_history_from(std::uint64_t offset, std::size_t max_bytes, const Deadline& deadline) const;
  /// The last that the guest printed, from `bytes` before its end.
  [[nodiscard]] SerialHistory serial_history_last(std::uint64_t bytes, std::size_t max_bytes, const Deadline& deadline) const;
  void inject_nmi(const Deadline& deadline) const;
  /// How migrations in and out are getting on.
  [[nodiscard]] nlohmann::json migration_status(const Deadline& deadline) const;

  /// Of disks in Crucible alone.
  void snapshot_disk(const std::string& disk, const std::string& snapshot_id, const Deadline& deadline) const;
  [[nodiscard]] nlohmann::json disk_status(const std::string& disk, const Deadline& deadline) const;
  /// Has a disk continue with another volume construction request (Crucible's own JSON), and returns how that goes: "started".
  std::string replace_volume(const std::string& disk, const nlohmann::json& request, const Deadline& deadline) const;

 private:
  [[nodiscard]] std::string ask(const char* method, const std::string& path, const std::string& body,
                                const Deadline& deadline) const;
  [[nodiscard]] nlohmann::json get(const std::string& path, const Deadline& deadline) const;
  [[nodiscard]] SerialHistory serial_history(const std::string& query, std::size_t max_bytes, const Deadline& deadline) const;

  HttpClient http_;
  std::string version_;
};

/// The words of a refusal, whose body is an object with a message and perhaps a code; anything else as it is, made harmless to
/// show.
struct Refusal {
  std::string words;
  std::string code;
};
[[nodiscard]] Refusal parse_refusal(const std::string& body);

}  // namespace vmtest::propolis
