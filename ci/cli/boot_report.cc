#include "boot_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

namespace vmtest::cli {
namespace {

using nlohmann::json;

/// In the order of a boot; JSON objects have none.
constexpr std::array<const char*, 9> kPhases = {"template", "admission", "clone",  "seed", "hypervisor",
                                                "refresh",  "kernel",    "marker", "ssh"};
/// Waiting for other tests is worth a word only when it took time.
constexpr double kShownAdmission = 0.05;

std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

double number_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : 0;
}

}  // namespace

std::vector<BootReport> parse_boot_reports(std::string_view text) {
  std::vector<BootReport> reports;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const json line = json::parse(text.substr(0, end), nullptr, false);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!line.is_object()) continue;
    BootReport report;
    report.test = text_of(line, "test");
    report.vm = text_of(line, "vm");
    report.accelerator = text_of(line, "accelerator");
    report.accelerator_reason = text_of(line, "accelerator_reason");
    report.evidence = text_of(line, "evidence");
    report.boot_reason = text_of(line, "boot_reason");
    report.forked = line.value("forked", json(false)) == json(true);
    const auto phases = line.find("phases");
    if (phases != line.end() && phases->is_object()) {
      for (const char* phase : kPhases) {
        // A boot has no refresh, a fork no seed.
        if (number_of(*phases, phase) > 0) report.phases.emplace_back(phase, number_of(*phases, phase));
      }
      report.total = number_of(*phases, "total");
    }
    reports.push_back(std::move(report));
  }
  return reports;
}

std::string count_forks(const std::vector<BootReport>& reports) {
  std::size_t forked = 0;
  std::size_t booted = 0;
  std::map<std::string, std::size_t> reasons;
  for (const BootReport& report : reports) {
    if (report.phases.empty()) continue;
    if (report.forked) {
      ++forked;
      continue;
    }
    ++booted;
    if (!report.boot_reason.empty()) ++reasons[report.boot_reason];
  }
  std::string text = forked > 0 ? fmt::format("{} continued from a template", forked) : "";
  if (booted > 0) text += fmt::format("{}{} booted", text.empty() ? "" : ", ", booted);
  std::string why;
  for (const auto& [reason, times] : reasons) why += fmt::format("{}{} ({})", why.empty() ? ": " : "; ", reason, times);
  return text + why;
}

std::string format_phases(const BootReport& report) {
  std::string text;
  for (const auto& [phase, seconds] : report.phases) {
    if (phase == "admission" && seconds < kShownAdmission) continue;
    text += fmt::format("{} {:.2f} s, ", phase, seconds);
  }
  return text + fmt::format("total {:.2f} s", report.total);
}

}  // namespace vmtest::cli
