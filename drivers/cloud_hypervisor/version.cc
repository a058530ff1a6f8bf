#include "version.h"

#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>

#include "file_identity.h"
#include "vmtest/deadline.h"
#include "vmtest/error.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"

namespace vmtest::cloud_hypervisor {
namespace {

/// Since this one, disks are told their format and whether they may have a backing file.
constexpr long kOldestMajor = 51;
constexpr long kFirstWithLimits = 52;
constexpr long kFirstToAnswerAtOnce = 53;
/// It takes milliseconds; loading from a cold disk on a crowded host takes longest.
constexpr std::chrono::seconds kVersionTime{20};

long supported_major(const std::string& version) {
  char* end = nullptr;
  const long major = std::strtol(version.c_str(), &end, 10);
  if (end == version.c_str() || *end != '.')
    throw Error("Cloud Hypervisor calls its version \"" + sanitize_console(version) + "\", which is none");
  if (major < kOldestMajor) {
    throw Unsupported("Cloud Hypervisor v" + sanitize_console(version) + " is too old: disks are told their format since v" +
                      std::to_string(kOldestMajor));
  }
  return major;
}

}  // namespace

void require_version(const std::string& version) { (void)supported_major(version); }

MigrationWay migration_way(const std::string& version) {
  const long major = supported_major(version);
  return {.takes_limits = major >= kFirstWithLimits, .answers_at_once = major >= kFirstToAnswerAtOnce};
}

std::string version_of(const std::filesystem::path& program) {
  static std::mutex mutex;
  static std::map<std::string, std::string> known;
  const std::lock_guard lock(mutex);
  const std::string identity = identity_of_file(program);
  if (const auto found = known.find(identity); found != known.end()) return found->second;
  // "cloud-hypervisor v53.0.0"
  std::istringstream words(run_tool({program.string(), "--version"}, Deadline::after(kVersionTime)).out);
  std::string name;
  std::string version;
  words >> name >> version;
  if (version.rfind('v', 0) == 0) version.erase(0, 1);
  return known[identity] = version;
}

}  // namespace vmtest::cloud_hypervisor
