#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli11.h"
#include "doctor_checks.h"
#include "exit_codes.h"
#include "subcommand.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"

namespace vmtest::cli {
namespace {

using nlohmann::json;

const char* word(Finding::Kind kind) {
  switch (kind) {
    case Finding::Kind::Good:
      return "ok";
    case Finding::Kind::Limited:
      return "limited";
    case Finding::Kind::Bad:
      break;
  }
  return "bad";
}

int examine(bool as_json) {
  json all = json::array();
  bool bad = false;
  for (const Check& check : doctor_checks()) {
    const Finding finding = run_check(check);
    bad = bad || finding.kind == Finding::Kind::Bad;
    all.push_back({{"check", check.name}, {"result", word(finding.kind)}, {"detail", finding.detail}, {"mend", finding.mend}});
    if (as_json) continue;
    fmt::print("{:<8} {:<14} {}\n", word(finding.kind), check.name, sanitize_console(finding.detail));
    if (!finding.mend.empty()) fmt::print("{:<23} -> {}\n", "", finding.mend);
  }
  if (as_json)
    write_all(STDOUT_FILENO,
              json({{"usable", !bad}, {"checks", all}}).dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  else fmt::print("\n{}\n", bad ? "VMs cannot be run here until what is bad is mended." : "VMs can be run here.");
  return bad ? kFailed : kSuccess;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  const auto as_json = std::make_shared<bool>(false);
  app.add_flag("--json", *as_json, "Print it as JSON");
  app.footer(
      "\"limited\" means that some tests will be skipped or slow, \"bad\" that no VM can be run.\nExit codes: 0 VMs can be run, "
      "1 they cannot, 2 a wrong command line.");
  app.final_callback([as_json, &action] { action = [as_json] { return examine(*as_json); }; });
}

}  // namespace vmtest::cli
