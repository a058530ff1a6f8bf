#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "guest/files.h"
#include "guest/readdress.h"

namespace vmtest::guest {

/// The name of the port the host talks through.
inline constexpr const char* kAgentPort = "org.vmtest.agent";

/// An SSH server's ed25519 key: the private one as OpenSSH's file has it, the public one as one line.
struct HostKey {
  std::string private_key;
  std::string public_key;
};

/// What makes a fork of a guest another machine than its sibling. A plain value.
struct Refresh {
  /// Host's time in nanoseconds since the epoch, empty: the clock stays.
  std::optional<long long> time_ns;
  /// Fresh random bytes.
  std::string entropy;
  /// Empty: stays.
  std::string hostname;
  /// 32 hexadecimal digits; empty: stays.
  std::string machine_id;
  /// Empty: stays.
  HostKey host_key;
  /// Its new addresses; none: they stay.
  std::optional<AddressChange> address;
};

/// Answers the host over a byte stream, one JSON object a line each way: requests {"op": NAME, "id": N, ...}, replies
/// {"id": N, "ok": true, ...} or {"id": N, "ok": false, "error": TEXT}. docs/agent.md has the operations.
///
/// Made for the port of a virtio-serial device, which has no end of file: when nobody listens on the host's side it only
/// stands still. The descriptor is to be waited for with EPOLLET, since a port without a listener is always "hung up".
class Agent {
 public:
  /// Gives the guest's SSH server another key and returns when it has it. Throws std::runtime_error.
  using HostKeySetter = std::function<void(const HostKey& key)>;

  explicit Agent(HostKeySetter set_host_key) : set_host_key_(std::move(set_host_key)) {}

  /// Opens the port of that name ("org.vmtest.agent"); false when the machine has none (yet).
  bool open_port(std::string_view name);
  /// Serves an open, non-blocking port.
  void attach(Descriptor port);
  /// Readable (EPOLLIN) when handle() has something to do; -1 without a port.
  [[nodiscard]] int descriptor() const { return events_.get(); }
  /// Answers what has arrived, and sends what could not be sent before.
  void handle();

  /// The reply to one line, without its line end. For tests.
  [[nodiscard]] std::string answer(std::string_view line);

 private:
  HostKeySetter set_host_key_;
  Descriptor port_;
  Descriptor events_;
  std::string requests_;
  std::string replies_;
};

/// Applies a refresh but for the host key. The random numbers come first: whoever connects afterwards must not meet the
/// template's. Throws std::runtime_error that names the step.
void apply_refresh(const Refresh& refresh);

/// `hosts` (the text of /etc/hosts) with `hostname` as the machine's own name on the 127.0.1.1 line.
[[nodiscard]] std::string rename_in_hosts(std::string_view hosts, const std::string& hostname);

}  // namespace vmtest::guest
