#include <algorithm>
#include <charconv>
#include <filesystem>

#include "process_scan.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"

namespace vmtest::cli {
namespace {

/// Longer environments are cut; the kernel's own limit for arguments and environment together is of this size.
constexpr std::size_t kEnvironmentLimit = 4U << 20;
constexpr std::size_t kCommandLimit = 300;

bool has_entry(const std::string& environment, const std::string& entry) {
  // Entries end in NUL, the one before the first is imagined.
  const std::string framed = '\0' + environment;
  return framed.find('\0' + entry + '\0') != std::string::npos;
}

}  // namespace

std::vector<FoundProcess> scan_processes(const std::string& entry) {
  std::vector<FoundProcess> found;
  std::error_code ignored;
  for (const auto& folder : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = folder.path().filename().string();
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size()) continue;
    try {
      const std::string environment = read_file(folder.path() / "environ");
      if (environment.size() > kEnvironmentLimit || !has_entry(environment, entry)) continue;
      const auto start_time = process_start_time(pid);
      if (!start_time) continue;
      std::string command = read_file(folder.path() / "cmdline").substr(0, kCommandLimit);
      std::replace(command.begin(), command.end(), '\0', ' ');
      if (command.empty()) continue;  // ended, and not waited for yet
      found.push_back({pid, *start_time, sanitize_console(command)});
    } catch (const std::exception&) {  // another user's, or gone while we looked
    }
  }
  return found;
}

}  // namespace vmtest::cli
