#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "api_error.h"
#include "backend.h"
#include "event_log.h"
#include "exit_request.h"

namespace httplib {
class Server;
}

namespace vmtest::vz {

/// What host.capabilities answers.
[[nodiscard]] nlohmann::json capabilities_of(const HostFacts& host);

/// What becomes of the process when the guest has stopped by itself.
enum class AfterGuest { Exit, Stay };

/// The calls of api.md over one hypervisor with up to one VM. Everything it was given is borrowed.
class ApiServer : private VmListener {
 public:
  ApiServer(Hypervisor& hypervisor, EventLog& events, ExitRequest& exit, AfterGuest after_guest);
  ~ApiServer() override;

  /// Adds the calls to a server.
  void route(httplib::Server& server);
  /// Ends the VM, if there is one.
  void drop_vm();

 private:
  using Json = nlohmann::json;
  /// Gets the body (null when there is none) and returns the answer's (null for none).
  using Call = std::function<Json(const Json& body)>;
  struct Route {
    const char* name;
    enum class Method { Get, Put } method;
    /// What the message of a failure starts with: "cannot pause the VM".
    const char* failure;
    Call call;
  };

  void guest_stopped() override;
  void stopped_with_error(const std::vector<std::string>& chain) override;
  void network_disconnected(std::size_t nic, const std::vector<std::string>& chain) override;

  [[nodiscard]] std::vector<Route> routes();
  [[nodiscard]] std::shared_ptr<VirtualMachine> vm();
  Json ping();
  Json create(const Json& body);
  Json info();
  Json remove();
  Json set_balloon(const Json& body);
  Json attach_usb_disk(const Json& body);
  Json detach_usb_disk(const Json& body);

  Hypervisor& hypervisor_;
  EventLog& events_;
  ExitRequest& exit_;
  AfterGuest after_guest_;
  std::mutex mutex_;
  /// Shared with the calls under way.
  std::shared_ptr<VirtualMachine> vm_;
  Json config_;
};

}  // namespace vmtest::vz
