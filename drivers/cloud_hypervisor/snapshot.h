#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "api_client.h"
#include "vm_config.h"
#include "vmtest/deadline.h"

namespace vmtest::cloud_hypervisor {

// A frozen VM as three files beside each other, which belong to the state file by their names: `state` (Cloud Hypervisor's
// state.json), `state.memory` (memory-ranges) and `state.config` (config.json).

/// Writes them, of a VM that stands still.
void write_snapshot(const ApiClient& api, const std::filesystem::path& state_file, const Deadline& deadline);

/// The frozen VM in Cloud Hypervisor's words.
[[nodiscard]] nlohmann::json read_description(const std::filesystem::path& state_file);
/// The same with the machine's disks, TAPs, sockets and kernel in place of its own. Throws Error when the machine lacks something
/// that the frozen one has.
[[nodiscard]] nlohmann::json adapt(nlohmann::json description, const VmConfig& machine);
/// Puts a state and a description where Cloud Hypervisor restores from: a new folder with its own names.
void lay_out_snapshot(const std::filesystem::path& state_file, const nlohmann::json& description,
                      const std::filesystem::path& folder);

}  // namespace vmtest::cloud_hypervisor
