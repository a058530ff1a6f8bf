#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/host/process.h"

namespace vmtest {

/// The folder that tests/support/fetch_ssh_servers has filled, named by VMTEST_TEST_SSH_SERVERS; empty where the host's own
/// programs are to serve.
inline std::filesystem::path ssh_servers_folder() {
  const char* folder = std::getenv("VMTEST_TEST_SSH_SERVERS");
  return folder != nullptr ? folder : "";
}

/// A program of that folder, in usr/bin or usr/sbin, or the host's own; empty when there is none.
inline std::optional<std::filesystem::path> find_ssh_program(const std::string& name) {
  const std::filesystem::path folder = ssh_servers_folder();
  for (const char* place : {"usr/sbin", "usr/bin"}) {
    const auto path = (folder.empty() ? "/" : folder) / place / name;
    if (std::filesystem::exists(path)) return path;
  }
  return folder.empty() ? find_program(name) : std::nullopt;
}

/// What those programs link against and a host may not have: files of that folder; none where there is no folder.
inline std::vector<std::filesystem::path> ssh_server_libraries() {
  std::vector<std::filesystem::path> found;
  if (ssh_servers_folder().empty()) return found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(ssh_servers_folder() / "usr/lib")) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && name.starts_with("lib") && name.find(".so.") != std::string::npos)
      found.push_back(entry.path());
  }
  return found;
}

}  // namespace vmtest
