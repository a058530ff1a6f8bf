#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "vmtest/machine_config.h"

/// What the VZ helper (vz/helper/api.md) is told of a VM.
namespace vmtest::vz_driver {

/// Names and places of a VM that its machine does not know.
struct Paths {
  /// Gets the console's log and the machine's identifier.
  std::filesystem::path work_dir;
  /// Gets the sockets.
  std::filesystem::path runtime_dir;
};

// Names of the files in those folders.
inline constexpr const char* kConsoleLog = "console.log";
inline constexpr const char* kMachineIdentifier = "machine-identifier";
inline constexpr const char* kVariableStore = "variable-store";
inline constexpr const char* kConsoleSocket = "console.sock";
inline constexpr const char* kVsockSocket = "vsock.sock";
/// Where the guest's agent listens on its vsock.
inline constexpr std::uint32_t kAgentPort = 5252;

/// Whether the host's system has identifiers of machines (macOS 13), without which a state cannot be restored.
enum class Identifier { Offered, Missing };

/// The body of vm.create, without disks that are plugged in: a pure function, nothing is looked up. Throws Unsupported for what
/// the framework does not have: disks but raw ones, a BIOS, networks but its NAT, a display by VNC, memory in a file of ours.
[[nodiscard]] nlohmann::json vm_config(const MachineConfig& machine, const Paths& paths, Identifier identifier);
/// The body of vm.attach-usb-disk.
[[nodiscard]] nlohmann::json usb_disk(const DiskConfig& disk);

/// A kernel's command line with the framework's only console, hvc0, in place of a PC's or a board's serial port. It comes last,
/// which makes it the system's whatever others are named.
[[nodiscard]] std::string on_virtio_console(const std::string& command_line);

}  // namespace vmtest::vz_driver
