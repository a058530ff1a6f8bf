#include <fmt/format.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "cli11.h"
#include "exit_codes.h"
#include "subcommand.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/template_store.h"

namespace vmtest::cli {
namespace {

using nlohmann::json;

struct TemplateOptions {
  std::string key;
  bool all = false;
  bool verify = false;
  bool as_json = false;
};
using SharedOptions = std::shared_ptr<TemplateOptions>;

constexpr std::size_t kShortKey = 12;

json to_json(const TemplateInfo& tmpl) {
  return {{"key", tmpl.key},
          {"image", tmpl.image},
          {"folder", tmpl.folder.string()},
          {"prepared_version", tmpl.prepared_version},
          {"memory_mib", tmpl.memory_mib},
          {"built_at", tmpl.built_at},
          {"build_seconds", tmpl.build_seconds},
          {"bytes", tmpl.bytes},
          {"last_used", std::chrono::system_clock::to_time_t(tmpl.last_used)},
          {"spec", json::parse(tmpl.spec_json, nullptr, false)}};
}

void print_json(const json& value) { write_all(STDOUT_FILENO, value.dump(2) + "\n"); }

double mebibytes(std::uintmax_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

/// Keys of all templates, also of those that nothing continues from.
std::set<std::string> all_keys(const TemplateStore& store) {
  std::set<std::string> keys;
  for (const TemplateInfo& tmpl : store.list()) keys.insert(tmpl.key);
  for (const TemplateStore::Unusable& unusable : store.unusable()) keys.insert(unusable.key);
  return keys;
}

/// The key that is, or begins with, what was given.
std::string find_key(const TemplateStore& store, const std::string& given) {
  std::vector<std::string> matches;
  for (const std::string& key : all_keys(store)) {
    if (key == given) return key;
    if (key.starts_with(given)) matches.push_back(key);
  }
  if (matches.empty()) throw Error("there is no template \"" + given + "\"; see: vmtest template ls");
  if (matches.size() > 1) throw Error("several templates begin with \"" + given + "\"; see: vmtest template ls");
  return matches.front();
}

TemplateInfo find_template(const TemplateStore& store, const std::string& given) {
  const std::string key = find_key(store, given);
  for (TemplateInfo& tmpl : store.list()) {
    if (tmpl.key == key) return std::move(tmpl);
  }
  for (const TemplateStore::Unusable& unusable : store.unusable()) {
    if (unusable.key == key) throw Error("template " + key + " is unusable: " + unusable.why + "; vmtest template rm removes it");
  }
  throw Error("template " + key + " was removed at this moment");
}

int list(const TemplateOptions& options) {
  const std::vector<TemplateInfo> templates = TemplateStore().list();
  std::map<std::string, std::string> unusable;
  for (TemplateStore::Unusable& one : TemplateStore().unusable()) unusable[one.key] = std::move(one.why);
  if (options.as_json) {
    json all = json::array();
    for (const TemplateInfo& tmpl : templates) {
      if (!unusable.contains(tmpl.key)) all.push_back(to_json(tmpl));
    }
    for (const auto& [key, why] : unusable) all.push_back({{"key", key}, {"unusable", why}});
    print_json(all);
    return kSuccess;
  }
  fmt::print("{:<{}} {:<20} {:>10} {:>10}  {:<20}  {}\n", "KEY", kShortKey, "IMAGE", "MEMORY", "ON DISK", "BUILT", "SPARES");
  for (const TemplateInfo& tmpl : templates) {
    if (unusable.contains(tmpl.key)) continue;
    fmt::print("{:<{}} {:<20} {:>6} MiB {:>6.0f} MiB  {:<20}  {:.1f} s\n", tmpl.key.substr(0, kShortKey), kShortKey, tmpl.image,
               tmpl.memory_mib, mebibytes(tmpl.bytes), tmpl.built_at, tmpl.build_seconds);
  }
  for (const auto& [key, why] : unusable) fmt::print("{:<{}} unusable: {}\n", key.substr(0, kShortKey), kShortKey, why);
  return kSuccess;
}

int remove(const TemplateOptions& options) {
  const TemplateStore store;
  const std::set<std::string> wanted = options.all ? all_keys(store) : std::set{find_key(store, options.key)};
  int code = kSuccess;
  for (const std::string& key : wanted) {
    if (store.discard(key)) continue;
    fmt::print(stderr, "vmtest template rm: {} stays: a running VM uses it\n", key);
    code = kFailed;
  }
  return code;
}

int collect(const TemplateOptions&) {
  const TemplateStore::Collected collected = TemplateStore().collect(TemplateStore::limits_from_environment());
  for (const std::string& key : collected.removed) fmt::print("removed {}\n", key);
  fmt::print("{} templates, {:.0f} MiB\n", collected.removed.size(), mebibytes(collected.bytes));
  return kSuccess;
}

int show(const TemplateOptions& options) {
  const TemplateStore store;
  const TemplateInfo tmpl = find_template(store, options.key);
  json info = to_json(tmpl);
  std::string damage;
  if (options.verify) {
    damage = store.verify(tmpl);
    info["verified"] = damage.empty();
    if (!damage.empty()) fmt::print(stderr, "vmtest template info: {}: {}\n", tmpl.key, damage);
  }
  if (options.as_json) {
    print_json(info);
  } else {
    for (const auto& [key, value] : info.items()) {
      fmt::print("{:<17} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  return damage.empty() ? kSuccess : kFailed;
}

CLI::App& add_verb(CLI::App& app, Action& action, const SharedOptions& options, const char* name, const char* summary,
                   int (*run)(const TemplateOptions&)) {
  CLI::App& verb = *app.add_subcommand(name, summary);
  verb.final_callback([options, &action, run] { action = [options, run] { return run(*options); }; });
  return verb;
}

}  // namespace

void add_template(CLI::App& app, Action& action) {
  const auto options = std::make_shared<TemplateOptions>();
  app.require_subcommand(1);
  // The verbs' own help ends with it too.
  app.footer(
      "A template is a booted guest, frozen when it was ready. The first test of its kind makes it, the others continue from "
      "it.\n"
      "It holds what the guest's memory held.\n"
      "Exit codes: 0 it is done, 1 (rm) a running VM uses it, (info --verify) a byte differs from what was published, 2 a wrong\n"
      "command line, 3 there is no such template, or the folder cannot be read.");
  add_verb(app, action, options, "ls", "List templates, the last used first", list)
      .add_flag("--json", options->as_json, "Print them as JSON");
  CLI::App& remove_verb = add_verb(app, action, options, "rm", "Remove a template that no running VM uses", remove);
  remove_verb.add_option("key", options->key, "The key, or as much of it as tells it apart")->type_name("KEY");
  remove_verb.add_flag("--all", options->all, "Remove all of them");
  remove_verb.require_option(1);  // one or the other
  add_verb(app, action, options, "gc", "Remove what is too old or too much, and what dead builders left", collect)
      .footer(
          "Limits: VMTEST_TEMPLATES_MAX_MIB (20480) and VMTEST_TEMPLATES_MAX_DAYS (30). Each new template is followed by this.\n"
          "Exit codes: 0 it is done, 2 a wrong command line, 3 the folder or a limit cannot be read.");
  CLI::App& info_verb = add_verb(app, action, options, "info", "Show what a template is", show);
  info_verb.add_option("key", options->key, "The key, or as much of it as tells it apart")->required()->type_name("KEY");
  info_verb.add_flag("--verify", options->verify, "Read every byte of it; exit code 1 when one is not as published");
  info_verb.add_flag("--json", options->as_json, "Print it as JSON");
}

}  // namespace vmtest::cli
