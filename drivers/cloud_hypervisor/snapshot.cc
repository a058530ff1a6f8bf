#include "snapshot.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::cloud_hypervisor {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kConfig = "config.json";
constexpr const char* kState = "state.json";
constexpr const char* kMemory = "memory-ranges";

fs::path beside(const fs::path& state_file, const char* what) { return state_file.string() + what; }

/// The part of that id in a list of the machine's.
template <typename Part>
const Part& part_of(const std::vector<Part>& parts, const std::string& id, const char* what) {
  for (const Part& part : parts) {
    if (part.id == id) return part;
  }
  throw Error(std::string("the frozen VM has a ") + what + " \"" + id + "\", this machine has none");
}

/// Sets a field that is left out when there is nothing in it.
void put(json& object, const char* field, const std::string& value) {
  if (value.empty()) object[field] = nullptr;
  else object[field] = value;
}

json list_of(const json& saved, const char* field) {
  const auto found = saved.find(field);
  return found == saved.end() || found->is_null() ? json::array() : *found;
}

json with_parts_of(const VmConfig& machine, json saved) {
  json disks = list_of(saved, "disks");
  for (json& disk : disks) disk["path"] = part_of(machine.disks, disk.at("id"), "disk").path.string();
  saved["disks"] = disks;
  json nets = list_of(saved, "net");
  for (json& net : nets) {
    const NetConfig& own = part_of(machine.net, net.at("id"), "network card");
    put(net, "tap", own.tap);
    put(net, "ip", own.ip);
    put(net, "mask", own.mask);
    put(net, "host_mac", own.host_mac);
  }
  saved["net"] = nets;
  if (machine.serial.mode == ConsoleConfig::Mode::File) saved["serial"]["file"] = machine.serial.path.string();
  if (machine.serial.mode == ConsoleConfig::Mode::Socket) saved["serial"]["socket"] = machine.serial.path.string();
  if (machine.vsock) saved["vsock"]["socket"] = machine.vsock->socket.string();
  if (!machine.payload.firmware.empty()) put(saved["payload"], "firmware", machine.payload.firmware.string());
  if (!machine.payload.kernel.empty()) put(saved["payload"], "kernel", machine.payload.kernel.string());
  if (!machine.payload.initramfs.empty()) put(saved["payload"], "initramfs", machine.payload.initramfs.string());
  return saved;
}

}  // namespace

json adapt(json description, const VmConfig& machine) {
  try {
    return with_parts_of(machine, std::move(description));
  } catch (const json::exception& error) {
    throw Error(std::string("the frozen VM's description is none: ") + error.what());
  }
}

void write_snapshot(const ApiClient& api, const fs::path& state_file, const Deadline& deadline) {
  // It refuses a folder that has such files already.
  const fs::path folder = beside(state_file, ".folder");
  fs::create_directory(folder);
  fs::permissions(folder, fs::perms::owner_all);
  try {
    api.snapshot(folder, deadline);
    fs::rename(folder / kConfig, beside(state_file, ".config"));
    fs::rename(folder / kMemory, beside(state_file, ".memory"));
    fs::rename(folder / kState, state_file);
    // Where it makes files that others may read, too.
    for (const fs::path& file : {state_file, beside(state_file, ".config"), beside(state_file, ".memory")})
      fs::permissions(file, fs::perms::owner_read | fs::perms::owner_write);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    throw;
  }
  fs::remove(folder);
}

json read_description(const fs::path& state_file) {
  const fs::path file = beside(state_file, ".config");
  json description = json::parse(read_file(file), nullptr, false);
  if (!description.is_object()) throw Error(file.string() + " is no description of a VM");
  return description;
}

void lay_out_snapshot(const fs::path& state_file, const json& description, const fs::path& folder) {
  fs::remove_all(folder);
  fs::create_directory(folder);
  write_file(folder / kConfig, description.dump(), 0600);
  // Only read: the same files serve all that continue from them.
  fs::create_symlink(fs::absolute(state_file), folder / kState);
  fs::create_symlink(fs::absolute(beside(state_file, ".memory")), folder / kMemory);
}

}  // namespace vmtest::cloud_hypervisor
