#include "api_client.h"

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "vmtest/host/text.h"

namespace vmtest::cloud_hypervisor {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int kNoContent = 204;

std::string file_url(const fs::path& path) { return "file://" + path.string(); }

void put_text(json& object, const char* key, const std::string& text) {
  if (!text.empty()) object[key] = text;
}
template <typename Value>
void put_optional(json& object, const char* key, const std::optional<Value>& value) {
  if (value) object[key] = *value;
}
void put_mode(json& object, const std::optional<MigrationMode>& mode) {
  if (mode) object["memory_mode"] = *mode == MigrationMode::Precopy ? "Precopy" : "Postcopy";
}

/// Takes what an answer holds; throws Error when it is not what the endpoint's description says.
template <typename Take>
auto taken(const json& answer, const char* endpoint, Take&& take) -> decltype(take(answer)) {
  try {
    return take(answer);
  } catch (const json::exception& error) {
    throw Error(std::string("the answer to ") + endpoint + " is not what Cloud Hypervisor's API describes: " + error.what());
  }
}

}  // namespace

std::optional<PciDeviceInfo> ApiClient::add(const char* endpoint, const json& body, const Deadline& deadline) const {
  const HttpReply reply = api_.ask("PUT", endpoint, body.dump(), deadline);
  if (reply.status == kNoContent) return std::nullopt;
  return taken(json::parse(reply.body, nullptr, false), endpoint, [](const json& answer) {
    return PciDeviceInfo{answer.at("id"), answer.at("bdf")};
  });
}

Ping ApiClient::ping(const Deadline& deadline) const {
  return taken(api_.get("vmm.ping", deadline), "vmm.ping", [](const json& answer) {
    Ping ping;
    ping.version = answer.at("version");
    ping.build_version = answer.value("build_version", "");
    if (answer.contains("pid")) ping.pid = answer.at("pid").get<std::int64_t>();
    ping.features = answer.value("features", std::vector<std::string>());
    return ping;
  });
}

void ApiClient::shutdown_vmm(const Deadline& deadline) const { api_.put("vmm.shutdown", deadline); }
void ApiClient::create(const VmConfig& config, const Deadline& deadline) const {
  api_.put("vm.create", to_json(config), deadline);
}
void ApiClient::remove(const Deadline& deadline) const { api_.put("vm.delete", deadline); }
void ApiClient::boot(const Deadline& deadline) const { api_.put("vm.boot", deadline); }
void ApiClient::pause(const Deadline& deadline) const { api_.put("vm.pause", deadline); }
void ApiClient::resume(const Deadline& deadline) const { api_.put("vm.resume", deadline); }
void ApiClient::shutdown(const Deadline& deadline) const { api_.put("vm.shutdown", deadline); }
void ApiClient::reboot(const Deadline& deadline) const { api_.put("vm.reboot", deadline); }
void ApiClient::press_power_button(const Deadline& deadline) const { api_.put("vm.power-button", deadline); }
void ApiClient::inject_nmi(const Deadline& deadline) const { api_.put("vm.nmi", deadline); }

State ApiClient::state(const Deadline& deadline) const {
  return taken(info(deadline), "vm.info", [](const json& answer) {
    constexpr std::array<std::pair<const char*, State>, 5> kStates = {{{"Created", State::Created},
                                                                       {"Running", State::Running},
                                                                       {"Shutdown", State::Shutdown},
                                                                       {"Paused", State::Paused},
                                                                       {"BreakPoint", State::BreakPoint}}};
    const std::string name = answer.at("state");
    for (const auto& [known, state] : kStates) {
      if (name == known) return state;
    }
    throw Error("Cloud Hypervisor says that its VM is in a state that is not known here: " + sanitize_console(name));
  });
}

json ApiClient::info(const Deadline& deadline) const { return api_.get("vm.info", deadline); }
json ApiClient::counters(const Deadline& deadline) const { return api_.get("vm.counters", deadline); }

void ApiClient::resize(const Resize& sizes, const Deadline& deadline) const {
  json body = json::object();
  put_optional(body, "desired_vcpus", sizes.vcpus);
  put_optional(body, "desired_ram", sizes.ram);
  put_optional(body, "desired_balloon", sizes.balloon);
  api_.put("vm.resize", body, deadline);
}

void ApiClient::resize_disk(const std::string& id, std::uint64_t bytes, const Deadline& deadline) const {
  api_.put("vm.resize-disk", {{"id", id}, {"desired_size", bytes}}, deadline);
}

void ApiClient::resize_zone(const std::string& id, std::uint64_t bytes, const Deadline& deadline) const {
  api_.put("vm.resize-zone", {{"id", id}, {"desired_ram", bytes}}, deadline);
}

std::optional<PciDeviceInfo> ApiClient::add_device(const fs::path& sysfs, const std::string& id, const Deadline& deadline) const {
  json body = {{"path", sysfs.string()}};
  put_text(body, "id", id);
  return add("vm.add-device", body, deadline);
}

std::optional<PciDeviceInfo> ApiClient::add_disk(const DiskConfig& disk, const Deadline& deadline) const {
  return add("vm.add-disk", to_json(disk), deadline);
}

std::optional<PciDeviceInfo> ApiClient::add_fs(const FsConfig& fs, const Deadline& deadline) const {
  return add("vm.add-fs", to_json(fs), deadline);
}

std::optional<PciDeviceInfo> ApiClient::add_generic_vhost_user(const GenericVhostUser& device, const Deadline& deadline) const {
  json body = {{"socket", device.socket.string()}, {"device_type", device.device_type}, {"queue_sizes", device.queue_sizes}};
  put_text(body, "id", device.id);
  return add("vm.add-generic-vhost-user", body, deadline);
}

std::optional<PciDeviceInfo> ApiClient::add_net(const NetConfig& net, const Deadline& deadline) const {
  return add("vm.add-net", to_json(net), deadline);
}

std::optional<PciDeviceInfo> ApiClient::add_pmem(const Pmem& pmem, const Deadline& deadline) const {
  json body = {{"file", pmem.file.string()}, {"discard_writes", pmem.discard_writes}};
  put_optional(body, "size", pmem.size);
  put_text(body, "id", pmem.id);
  return add("vm.add-pmem", body, deadline);
}

std::optional<PciDeviceInfo> ApiClient::add_user_device(const fs::path& socket, const Deadline& deadline) const {
  return add("vm.add-user-device", {{"socket", socket.string()}}, deadline);
}

std::optional<PciDeviceInfo> ApiClient::add_vdpa(const Vdpa& vdpa, const Deadline& deadline) const {
  json body = {{"path", vdpa.path.string()}, {"num_queues", vdpa.num_queues}};
  put_text(body, "id", vdpa.id);
  return add("vm.add-vdpa", body, deadline);
}

std::optional<PciDeviceInfo> ApiClient::add_vsock(const VsockConfig& vsock, const Deadline& deadline) const {
  return add("vm.add-vsock", to_json(vsock), deadline);
}

void ApiClient::remove_device(const std::string& id, const Deadline& deadline) const {
  api_.put("vm.remove-device", {{"id", id}}, deadline);
}

void ApiClient::snapshot(const fs::path& folder, const Deadline& deadline) const {
  api_.put("vm.snapshot", {{"destination_url", file_url(folder)}}, deadline);
}

void ApiClient::restore(const Restore& restore, const Deadline& deadline) const {
  json body = {{"source_url", file_url(restore.folder)}};
  if (restore.resume) body["resume"] = true;
  if (restore.prefault) body["prefault"] = true;
  if (restore.memory_mode) body["memory_restore_mode"] = *restore.memory_mode == MemoryRestoreMode::Copy ? "Copy" : "OnDemand";
  api_.put("vm.restore", body, deadline);
}

void ApiClient::dump_core(const fs::path& file, const Deadline& deadline) const {
  api_.put("vm.coredump", {{"destination_url", file_url(file)}}, deadline);
}

void ApiClient::receive_migration(const ReceiveMigration& migration, const Deadline& deadline) const {
  json body = {{"receiver_url", migration.url}};
  put_text(body, "tls_dir", migration.tls_dir.string());
  put_mode(body, migration.mode);
  api_.put("vm.receive-migration", body, deadline);
}

void ApiClient::send_migration(const SendMigration& migration, const Deadline& deadline) const {
  json body = {{"destination_url", migration.url}};
  if (migration.local) body["local"] = true;
  put_optional(body, "downtime_ms", migration.downtime_ms);
  put_optional(body, "timeout_s", migration.timeout_s);
  put_optional(body, "connections", migration.connections);
  put_text(body, "tls_dir", migration.tls_dir.string());
  put_mode(body, migration.mode);
  api_.put("vm.send-migration", body, deadline);
}

}  // namespace vmtest::cloud_hypervisor
