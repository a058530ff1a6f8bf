#include "api_server.h"

#include <httplib.h>
#include <unistd.h>

#include <utility>

#include "host_features.h"
#include "json_reader.h"

namespace vmtest::vz {
namespace {

using nlohmann::json;

constexpr const char* kJson = "application/json";

std::string dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

void answer_failure(httplib::Response& response, const char* failure, const ApiError& error) {
  std::vector<std::string> chain = {failure};
  chain.insert(chain.end(), error.chain().begin(), error.chain().end());
  response.status = error.status();
  response.set_content(dump(chain), kJson);
}

json parse_body(const std::string& text) {
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return nullptr;
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    throw ApiError(kBadRequest, std::string("the body is no JSON: ") + error.what());
  }
}

void require_no_body(const json& body) {
  if (!body.is_null() && !(body.is_object() && body.empty())) throw ApiError(kBadRequest, "the call takes no body");
}

std::string only_path(const json& body) {
  JsonReader reader(body, "");
  std::string path = reader.path("path");
  reader.finish();
  return path;
}

}  // namespace

json capabilities_of(const HostFacts& host) {
  json features = json::object();
  for (const Feature feature : all_features()) {
    const auto reason = missing_reason(feature, host);
    json& entry = features[std::string(to_string(feature))];
    entry = {{"supported", !reason}};
    if (reason) entry["why"] = *reason;
  }
  return {{"os", to_string(host.version)},
          {"architecture", host.architecture},
          {"cpus", {{"least", host.least_cpus}, {"most", host.most_cpus}}},
          {"memory_mib", {{"least", host.least_memory_mib}, {"most", host.most_memory_mib}}},
          {"bridged_interfaces", host.bridged_interfaces},
          {"features", std::move(features)}};
}

ApiServer::ApiServer(Hypervisor& hypervisor, EventLog& events, ExitRequest& exit, AfterGuest after_guest)
    : hypervisor_(hypervisor), events_(events), exit_(exit), after_guest_(after_guest) {}

ApiServer::~ApiServer() = default;

std::shared_ptr<VirtualMachine> ApiServer::vm() {
  const std::lock_guard lock(mutex_);
  if (!vm_) throw ApiError(kNotFound, "there is no VM; vm.create makes it");
  return vm_;
}

std::vector<ApiServer::Route> ApiServer::routes() {
  using Method = Route::Method;
  // Calls that take no body, and answer with none.
  const auto simple = [this](void (VirtualMachine::*call)(), const char* event) {
    return [this, call, event](const json& body) -> json {
      require_no_body(body);
      ((*vm()).*call)();
      events_.record(event);
      return nullptr;
    };
  };
  const auto with_path = [this](void (VirtualMachine::*call)(const std::string&), const char* event) {
    return [this, call, event](const json& body) -> json {
      const auto machine = vm();
      const std::string path = only_path(body);
      ((*machine).*call)(path);
      events_.record(event, {{"path", path}});
      return nullptr;
    };
  };
  const auto without_body = [](std::function<json()> call) {
    return [call = std::move(call)](const json& body) -> json {
      require_no_body(body);
      return call();
    };
  };
  return {
      {"vmm.ping", Method::Get, "cannot answer", without_body([this] { return ping(); })},
      {"host.capabilities", Method::Get, "cannot ask the host",
       without_body([this] { return capabilities_of(hypervisor_.facts()); })},
      {"vmm.shutdown", Method::Put, "cannot shut down", without_body([this] {
         exit_.ask(0, "vmm.shutdown");
         return json();
       })},
      {"vm.create", Method::Put, "cannot create the VM", [this](const json& body) { return create(body); }},
      {"vm.info", Method::Get, "cannot ask for the VM's state", without_body([this] { return info(); })},
      {"vm.delete", Method::Put, "cannot delete the VM", without_body([this] { return remove(); })},
      {"vm.boot", Method::Put, "cannot boot the VM", simple(&VirtualMachine::boot, "booted")},
      {"vm.pause", Method::Put, "cannot pause the VM", simple(&VirtualMachine::pause, "paused")},
      {"vm.resume", Method::Put, "cannot resume the VM", simple(&VirtualMachine::resume, "resumed")},
      {"vm.power-button", Method::Put, "cannot ask the guest to stop", simple(&VirtualMachine::request_stop, "stop-requested")},
      {"vm.stop", Method::Put, "cannot stop the VM", simple(&VirtualMachine::stop, "stopped")},
      {"vm.save", Method::Put, "cannot save the VM", with_path(&VirtualMachine::save, "saved")},
      {"vm.restore", Method::Put, "cannot restore the VM", with_path(&VirtualMachine::restore, "restored")},
      {"vm.set-balloon", Method::Put, "cannot set the balloon", [this](const json& body) { return set_balloon(body); }},
      {"vm.attach-usb-disk", Method::Put, "cannot attach the disk", [this](const json& body) { return attach_usb_disk(body); }},
      {"vm.detach-usb-disk", Method::Put, "cannot detach the disk", [this](const json& body) { return detach_usb_disk(body); }},
  };
}

void ApiServer::route(httplib::Server& server) {
  for (Route& route : routes()) {
    const std::string path = "/api/v1/" + std::string(route.name);
    const auto handle = [call = std::move(route.call), failure = route.failure](const httplib::Request& request,
                                                                                httplib::Response& response) {
      try {
        const json answer = call(parse_body(request.body));
        response.status = answer.is_null() ? 204 : 200;
        if (!answer.is_null()) response.set_content(dump(answer), kJson);
      } catch (const ApiError& error) {
        answer_failure(response, failure, error);
      } catch (const std::exception& error) {
        answer_failure(response, failure, ApiError(kFailed, error.what()));
      }
    };
    // The others' methods are answered too, so that a wrong one is told from a wrong name.
    const bool get = route.method == Route::Method::Get;
    const auto refuse = [get, name = route.name](const httplib::Request&, httplib::Response& response) {
      response.status = 405;
      response.set_content(dump(json::array({std::string(name) + " takes " + (get ? "GET" : "PUT")})), kJson);
    };
    get ? server.Get(path, handle) : server.Get(path, refuse);
    get ? server.Put(path, refuse) : server.Put(path, handle);
  }
  server.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;
    const std::string what =
        response.status == 404 ? "there is no call " + request.method + " " + request.path : "the request cannot be read";
    response.set_content(dump(json::array({what})), kJson);
  });
}

json ApiServer::ping() { return {{"name", "vmtest-vz-helper"}, {"version", VMTEST_VERSION}, {"api", 1}, {"pid", ::getpid()}}; }

json ApiServer::create(const json& body) {
  const VmConfig config = parse_vm_config(body);
  // Held over the making, so that of two calls one finds the other's VM.
  const std::lock_guard lock(mutex_);
  if (vm_) throw ApiError(kConflict, "there is a VM already; vm.delete removes it");
  require_all(config, hypervisor_.facts());
  vm_ = hypervisor_.create(config, *this);
  config_ = body;
  events_.record("created");
  return nullptr;
}

json ApiServer::info() {
  const VmInfo info = vm()->info();
  json answer = {{"state", info.state},
                 {"can",
                  {{"boot", info.can_start},
                   {"stop", info.can_stop},
                   {"pause", info.can_pause},
                   {"resume", info.can_resume},
                   {"power-button", info.can_request_stop},
                   {"save", !info.cannot_save && info.state == "Paused"},
                   {"restore", !info.cannot_save && info.state == "Stopped"}}},
                 {"usb_disks", info.usb_disks}};
  if (info.cannot_save) answer["cannot_save"] = *info.cannot_save;
  if (info.balloon_mib) answer["balloon_mib"] = *info.balloon_mib;
  const std::lock_guard lock(mutex_);
  answer["config"] = config_;
  return answer;
}

json ApiServer::remove() {
  const std::string state = vm()->info().state;
  if (state != "Stopped" && state != "Error") throw ApiError(kConflict, "the VM is " + state + "; vm.stop stops it");
  drop_vm();
  events_.record("deleted");
  return nullptr;
}

json ApiServer::set_balloon(const json& body) {
  const auto machine = vm();
  JsonReader reader(body, "");
  const std::uint64_t mib = reader.number("memory_mib", 1, 1U << 30);
  reader.finish();
  machine->set_balloon(mib);
  events_.record("balloon-set", {{"memory_mib", mib}});
  return nullptr;
}

json ApiServer::attach_usb_disk(const json& body) {
  const auto machine = vm();
  const Disk disk = parse_usb_disk(body);
  const HostFacts host = hypervisor_.facts();
  require(Feature::UsbHotplug, host);
  if (disk.source == Disk::Source::Nbd) require(Feature::Nbd, host);
  if (disk.source == Disk::Source::BlockDevice) require(Feature::BlockDevice, host);
  machine->attach_usb_disk(disk);
  events_.record("usb-disk-attached", {{"id", disk.id}});
  return nullptr;
}

json ApiServer::detach_usb_disk(const json& body) {
  const auto machine = vm();
  JsonReader reader(body, "");
  const std::string id = reader.string("id");
  reader.finish();
  machine->detach_usb_disk(id);
  events_.record("usb-disk-detached", {{"id", id}});
  return nullptr;
}

void ApiServer::drop_vm() {
  std::shared_ptr<VirtualMachine> machine;
  {
    const std::lock_guard lock(mutex_);
    machine = std::move(vm_);
    vm_ = nullptr;
    config_ = nullptr;
  }
}

void ApiServer::guest_stopped() {
  events_.record("guest-stopped");
  if (after_guest_ == AfterGuest::Exit) exit_.ask(0, "the guest stopped");
}

void ApiServer::stopped_with_error(const std::vector<std::string>& chain) {
  events_.record("stopped-with-error", {{"errors", chain}});
  std::string line;
  for (const std::string& message : chain) line += ": " + message;
  std::fprintf(stderr, "vmtest-vz-helper: the VM stopped%s\n", line.c_str());
  if (after_guest_ == AfterGuest::Exit) exit_.ask(1, "the VM stopped" + line);
}

void ApiServer::network_disconnected(std::size_t nic, const std::vector<std::string>& chain) {
  events_.record("network-disconnected", {{"nic", nic}, {"errors", chain}});
}

}  // namespace vmtest::vz
