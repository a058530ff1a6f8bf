#pragma once

#include <functional>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "guest/files.h"
#include "guest/readdress.h"

namespace vmtest::guest {

/// The name of the port the host talks through.
inline constexpr const char* kAgentPort = "org.vmtest.agent";
/// The vsock port where a machine has a vsock device instead.
inline constexpr unsigned kAgentVsockPort = 5252;

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
/// It serves the port of a virtio-serial device, which has no end of file: when nobody listens on the host's side it only
/// stands still, and is always "hung up"; and those who connect to a listening socket, side by side, each until it hangs up.
class Agent {
 public:
  /// Gives the guest's SSH server another key and returns when it has it. Throws std::runtime_error.
  using HostKeySetter = std::function<void(const HostKey& key)>;

  explicit Agent(HostKeySetter set_host_key) : set_host_key_(std::move(set_host_key)) {}

  /// Serves the host by the device that the machine has for it, the port kAgentPort or vsock; false when it has none (yet).
  bool open();
  /// Serves an open, non-blocking port.
  void attach(Descriptor port);
  /// Serves whoever connects to a listening, non-blocking stream socket. On vsock that is the host alone: programs of the guest
  /// are turned away.
  void listen(Descriptor listener);
  /// Readable (EPOLLIN) when handle() has something to do; -1 without a port and a listener.
  [[nodiscard]] int descriptor() const { return events_.get(); }
  /// Answers what has arrived, and sends what could not be sent before.
  void handle();

  /// The reply to one line, without its line end. For tests.
  [[nodiscard]] std::string answer(std::string_view line);

 private:
  struct Stream {
    Descriptor descriptor;
    /// Whether it is over when nothing more can be read.
    bool ends = false;
    std::string requests = {};
    std::string replies = {};
  };

  bool open_port(std::string_view name);
  bool listen_on_vsock(unsigned port);
  void wait_for(const Descriptor& descriptor);
  void accept_all();
  /// Returns false when the stream has ended.
  bool serve(Stream& stream);

  HostKeySetter set_host_key_;
  Descriptor events_;
  Descriptor listener_;
  std::list<Stream> streams_;
};

/// Applies a refresh but for the host key. The random numbers come first: whoever connects afterwards must not meet the
/// template's. Returns when it set the clock, by the monotonic clock in nanoseconds, if it did. Throws std::runtime_error that
/// names the step.
std::optional<long long> apply_refresh(const Refresh& refresh);

/// `hosts` (the text of /etc/hosts) with `hostname` as the machine's own name on the 127.0.1.1 line.
[[nodiscard]] std::string rename_in_hosts(std::string_view hosts, const std::string& hostname);

}  // namespace vmtest::guest
