#include "vz/capabilities.h"

#include <chrono>
#include <cstdlib>
#include <mutex>
#include <nlohmann/json.hpp>

#include "supervisor_paths.h"
#include "vmtest/deadline.h"
#include "vmtest/error.h"
#include "vmtest/host/process.h"
#include "vmtest/host/program_files.h"

namespace vmtest::vz_driver {
namespace {

using nlohmann::json;

constexpr const char* kProgram = "vmtest-vz-helper";
constexpr const char* kProgramVariable = "VMTEST_VZ_HELPER";
/// It asks the framework a dozen questions, on a crowded host.
constexpr std::chrono::seconds kAnswerTime{20};

}  // namespace

std::optional<std::string> HostCapabilities::why_not(const std::string& feature) const {
  const auto found = missing.find(feature);
  return found == missing.end() ? std::nullopt : std::optional(feature + " " + found->second);
}

HostCapabilities parse_capabilities(std::string_view text) {
  try {
    const json answer = json::parse(text);
    HostCapabilities host;
    host.os = answer.at("os");
    for (const auto& [name, feature] : answer.at("features").items()) {
      if (!feature.at("supported").get<bool>()) host.missing[name] = feature.at("why");
    }
    return host;
  } catch (const json::exception& error) {
    throw Error(std::string("the VZ helper does not say what this host offers: ") + error.what());
  }
}

std::filesystem::path find_helper() {
  const char* named = std::getenv(kProgramVariable);
  if (std::string_view(kSystem) != "Darwin" && (named == nullptr || *named == '\0')) {
    throw Error(std::string("Virtualization.framework is macOS'; this is ") + kSystem + ", and " + kProgramVariable +
                " names no helper that stands in for it");
  }
  return find_own_program(kProgram, kProgramVariable, {kInstalledLibexec, std::filesystem::path(kBuildTree) / "vz" / "helper"});
}

const HostCapabilities& host_capabilities(const std::filesystem::path& helper) {
  static std::mutex mutex;
  static std::map<std::filesystem::path, HostCapabilities> known;
  const std::lock_guard lock(mutex);
  if (const auto found = known.find(helper); found != known.end()) return found->second;
  const ToolResult result = run_tool({helper.string(), "--capabilities"}, Deadline::after(kAnswerTime));
  return known[helper] = parse_capabilities(result.out);
}

}  // namespace vmtest::vz_driver
