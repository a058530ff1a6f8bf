#pragma once

#include <memory>
#include <optional>
#include <string>

#include "../api_client.h"
#include "../run_plan.h"
#include "vmtest/host/process.h"

namespace vmtest::propolis {

/// A propolis-server that takes an instance, for one run: started by us and ended with this object and this process, or running
/// already, where the one before must have ended.
class Server {
 public:
  /// Starts one on a free port, or waits for the one that the plan names. Throws Error with its own words when it does not come
  /// up, and when it goes on holding another instance.
  explicit Server(const RunPlan& plan);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  [[nodiscard]] const ApiClient& api() const { return *api_; }
  [[nodiscard]] const std::string& host() const { return plan_.host; }
  [[nodiscard]] std::uint16_t port() const { return port_; }
  /// Readable when it has ended; -1 for one that is not ours.
  [[nodiscard]] int pidfd() const { return process_.pid() > 0 ? process_.pidfd() : -1; }
  /// How it ended; empty while it runs, and for one that is not ours.
  [[nodiscard]] std::optional<ExitStatus> ended();
  /// What it said last, as lines to put behind an error; empty when that is not known here.
  [[nodiscard]] std::string last_words() const;

 private:
  void start_own();
  void await_fresh();
  [[nodiscard]] bool port_was_taken() const;
  /// Whether who listens on the port is the process that we started, as far as this system tells.
  [[nodiscard]] bool is_ours() const;

  const RunPlan plan_;
  std::uint16_t port_ = 0;
  ChildProcess process_;
  std::optional<ApiClient> api_;
};

}  // namespace vmtest::propolis
