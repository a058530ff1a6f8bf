#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/machine_config.h"

namespace vmtest {

/// What QEMU must know beside the machine: its own program, names and places of this VM.
struct QemuPaths {
  /// QEMU's program.
  std::filesystem::path program = {};
  /// Shown by process lists.
  std::string vm_name = {};
  /// Gets console.log.
  std::filesystem::path work_dir;
  /// Gets the sockets: qmp.sock (the owner's), qmp-cli.sock (everybody else's), console.sock, vnc.sock.
  std::filesystem::path runtime_dir;
  /// Port of 127.0.0.1 that leads to port 22 of the first user-mode card; 0 for none.
  std::uint16_t ssh_port = 0;
  /// The VM generation id; a new one when empty.
  std::string generation_id = {};
  /// Whether a guest arrives from another QEMU: nothing runs until it has, and QMP says so.
  bool awaits_guest = false;
};

/// Names of the files in those folders.
inline constexpr const char* kConsoleLog = "console.log";
inline constexpr const char* kQmpSocket = "qmp.sock";
inline constexpr const char* kQmpCliSocket = "qmp-cli.sock";
inline constexpr const char* kConsoleSocket = "console.sock";
inline constexpr const char* kAgentSocket = "agent.sock";
/// Number that the first TAP's descriptor has in QEMU; further ones follow.
inline constexpr int kFirstTapDescriptor = 3;
/// The device by which memory comes and goes while the guest runs.
inline constexpr const char* kPluggedMemory = "memory0";

/// QEMU's program for a guest: "qemu-system-x86_64".
[[nodiscard]] std::string qemu_program(Architecture architecture);
/// Debian's package that has it.
[[nodiscard]] std::string qemu_package(Architecture architecture);
/// The command line that starts the machine: a pure function, nothing is looked up. TAPs come by inherited descriptors, in
/// the order of their cards from kFirstTapDescriptor up. Throws Error for what no QEMU can run: Accelerator::Auto, an id or
/// serial number with characters it may not have, UEFI without firmware.
[[nodiscard]] std::vector<std::string> qemu_command_line(const MachineConfig& machine, const QemuPaths& paths);
/// QEMU's name of a port for devices that are plugged in later.
[[nodiscard]] std::string hotplug_bus(unsigned port);
/// QEMU's name of a vCPU that is plugged in.
[[nodiscard]] std::string plugged_vcpu(std::size_t place);
/// QEMU's names of the two halves of a card that is plugged into a port.
[[nodiscard]] std::string hotplug_netdev(unsigned port);
[[nodiscard]] std::string hotplug_nic(unsigned port);
/// QEMU's name of the network that the SSH port is forwarded into; none when all cards are on TAPs.
[[nodiscard]] std::optional<std::string> forwarding_netdev(const MachineConfig& machine);
/// Throws Error for an id or serial number with characters it may not have.
void require_valid(const DiskConfig& disk);
/// Throws Error for a MAC address that is none.
void require_mac(const std::string& text);
/// `text` as the value of a key=value option: QEMU reads a doubled comma as one.
[[nodiscard]] std::string qemu_escape(const std::string& text);

}  // namespace vmtest
