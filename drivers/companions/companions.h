#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/capability.h"
#include "vmtest/companions.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/machine_config.h"

namespace vmtest {

/// A process beside a hypervisor that serves one of its devices by a Unix socket.
struct Companion {
  /// Among the supervisor's processes: "virtiofsd-src", "swtpm".
  std::string name;
  /// For people: "virtiofsd, which serves the shared folder /home/me/src".
  std::string title;
  /// Made before it starts, listening, and given to it as kCompanionSocketDescriptor.
  std::filesystem::path socket;
  std::vector<std::string> argv;
  /// Opened and given to it as kCompanionFolderDescriptor; empty: none.
  std::filesystem::path folder = {};
  /// Whether it is to see that folder as one that cannot be written to.
  bool read_only = false;
  /// Made before it starts (0700); empty: none.
  std::filesystem::path state_dir = {};
};

inline constexpr int kCompanionSocketDescriptor = 3;
inline constexpr int kCompanionFolderDescriptor = 4;
/// Their names among what the supervisor holds for the moment.
inline constexpr const char* kCompanionSocket = "companion-socket";
inline constexpr const char* kCompanionFolder = "companion-folder";

/// Where the hypervisor reaches them.
[[nodiscard]] std::filesystem::path shared_folder_socket(const std::filesystem::path& runtime_dir, std::size_t place);
[[nodiscard]] std::filesystem::path tpm_socket(const std::filesystem::path& runtime_dir);

/// Their command lines: pure functions.
[[nodiscard]] std::vector<std::string> virtiofsd_command(const Virtiofsd& virtiofsd, const SharedFolderConfig& folder, bool root);
[[nodiscard]] std::vector<std::string> swtpm_command(const std::filesystem::path& program,
                                                     const std::filesystem::path& state_dir);

/// What the machine needs beside its hypervisor. Throws Error for folders that cannot be shared, Unsupported when a program is
/// missing.
[[nodiscard]] std::vector<Companion> companions_of(const MachineConfig& machine, const std::filesystem::path& work_dir,
                                                   const std::filesystem::path& runtime_dir);
/// Why a machine with companions is not frozen; empty when it has none.
[[nodiscard]] std::optional<std::string> companion_obstacle(const MachineConfig& machine);

/// Whether this host has the programs.
[[nodiscard]] Support shared_folder_support();
[[nodiscard]] Support tpm_support();

/// A descriptor of a folder; with `read_only`, of a view of it that nobody can write through, not even root.
[[nodiscard]] FileDescriptor open_shared_folder(const std::filesystem::path& folder, bool read_only);

}  // namespace vmtest
