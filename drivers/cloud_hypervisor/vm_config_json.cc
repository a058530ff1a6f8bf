// The form of a VM's description that the API takes.

#include <nlohmann/json.hpp>

#include "vm_config.h"

namespace vmtest::cloud_hypervisor {
namespace {

using nlohmann::json;

void put(json& object, const char* key, const std::string& text) {
  if (!text.empty()) object[key] = text;
}
void put(json& object, const char* key, const std::filesystem::path& path) { put(object, key, path.string()); }
void put_if(json& object, const char* key, bool value) {
  if (value) object[key] = true;
}

json to_json(const TokenBucket& bucket) {
  json object = {{"size", bucket.size}, {"refill_time", bucket.refill_time}};
  if (bucket.one_time_burst) object["one_time_burst"] = *bucket.one_time_burst;
  return object;
}

void put(json& object, const RateLimiterConfig& limiter) {
  if (limiter.bandwidth) object["rate_limiter_config"]["bandwidth"] = to_json(*limiter.bandwidth);
  if (limiter.ops) object["rate_limiter_config"]["ops"] = to_json(*limiter.ops);
}

json to_json(const CpusConfig& cpus) {
  json object = {{"boot_vcpus", cpus.boot_vcpus}, {"max_vcpus", cpus.max_vcpus}};
  if (cpus.topology) {
    object["topology"] = {{"threads_per_core", cpus.topology->threads_per_core},
                          {"cores_per_die", cpus.topology->cores_per_die},
                          {"dies_per_package", cpus.topology->dies_per_package},
                          {"packages", cpus.topology->packages}};
  }
  return object;
}

json to_json(const MemoryConfig& memory) {
  json object = {{"size", memory.size}};
  put_if(object, "shared", memory.shared);
  put_if(object, "hugepages", memory.hugepages);
  if (memory.hotplug_size) {
    object["hotplug_size"] = *memory.hotplug_size;
    object["hotplug_method"] = memory.hotplug_method == HotplugMethod::Acpi ? "Acpi" : "VirtioMem";
  }
  return object;
}

json to_json(const PayloadConfig& payload) {
  json object = json::object();
  put(object, "firmware", payload.firmware);
  put(object, "kernel", payload.kernel);
  put(object, "initramfs", payload.initramfs);
  put(object, "cmdline", payload.cmdline);
  return object;
}

json to_json(const ConsoleConfig& console) {
  switch (console.mode) {
    case ConsoleConfig::Mode::Off:
      return {{"mode", "Off"}};
    case ConsoleConfig::Mode::Null:
      return {{"mode", "Null"}};
    case ConsoleConfig::Mode::File:
      return {{"mode", "File"}, {"file", console.path.string()}};
    case ConsoleConfig::Mode::Socket:
      return {{"mode", "Socket"}, {"socket", console.path.string()}};
  }
  return {};
}

}  // namespace

json to_json(const DiskConfig& disk) {
  json object = {{"path", disk.path.string()}, {"image_type", disk.image_type == ImageType::Raw ? "Raw" : "Qcow2"}};
  put_if(object, "readonly", disk.readonly);
  put_if(object, "direct", disk.direct);
  put_if(object, "backing_files", disk.backing_files);
  put(object, "id", disk.id);
  put(object, "serial", disk.serial);
  put(object, disk.rate_limiter);
  return object;
}

json to_json(const NetConfig& net) {
  json object = json::object();
  put(object, "tap", net.tap);
  put(object, "ip", net.ip);
  put(object, "mask", net.mask);
  put(object, "host_mac", net.host_mac);
  put(object, "mac", net.mac);
  put(object, "id", net.id);
  return object;
}

json to_json(const FsConfig& fs) {
  json object = {{"tag", fs.tag}, {"socket", fs.socket.string()}, {"num_queues", fs.num_queues}, {"queue_size", fs.queue_size}};
  put(object, "id", fs.id);
  return object;
}

json to_json(const VsockConfig& vsock) {
  json object = {{"cid", vsock.cid}, {"socket", vsock.socket.string()}};
  put(object, "id", vsock.id);
  return object;
}

json to_json(const VmConfig& config) {
  json object = {{"cpus", to_json(config.cpus)},
                 {"memory", to_json(config.memory)},
                 {"payload", to_json(config.payload)},
                 {"serial", to_json(config.serial)},
                 {"console", to_json(config.console)}};
  for (const DiskConfig& disk : config.disks) object["disks"].push_back(to_json(disk));
  for (const NetConfig& net : config.net) object["net"].push_back(to_json(net));
  for (const FsConfig& fs : config.fs) object["fs"].push_back(to_json(fs));
  if (config.rng_src) object["rng"] = {{"src", config.rng_src->string()}};
  if (config.balloon) object["balloon"] = {{"size", config.balloon->size}, {"deflate_on_oom", config.balloon->deflate_on_oom}};
  if (config.vsock) object["vsock"] = to_json(*config.vsock);
  if (!config.tpm_socket.empty()) object["tpm"] = {{"socket", config.tpm_socket.string()}};
  if (!config.serial_number.empty()) object["platform"] = {{"serial_number", config.serial_number}};
  put_if(object, "watchdog", config.watchdog);
  put_if(object, "pvpanic", config.pvpanic);
  return object;
}

}  // namespace vmtest::cloud_hypervisor
