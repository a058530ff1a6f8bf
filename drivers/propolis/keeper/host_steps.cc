#include "host_steps.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "../api_client.h"
#include "../run_plan.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"

namespace vmtest::propolis {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What a command says may be no text of JSON.
constexpr auto kReplace = json::error_handler_t::replace;

/// Installing and halting zones takes seconds; no command of these takes minutes.
constexpr std::chrono::seconds kStepTime{60};
/// How long a process that is taking the same steps back may need.
constexpr std::chrono::seconds kLockTime{30};
/// For a server's answers while an instance is stopped.
constexpr std::chrono::seconds kInstanceTime{5};

fs::path lock_of(const fs::path& journal) { return journal.string() + kJournalLockSuffix; }

void forget(const fs::path& journal) {
  std::error_code ignored;
  fs::remove(journal, ignored);
  fs::remove(lock_of(journal), ignored);
}

/// Of one that has ended already, this does nothing.
void stop_instance(const json& instance) noexcept {
  try {
    const Deadline deadline = Deadline::after(kInstanceTime);
    const std::string host = instance.at("host");
    const std::uint16_t port = instance.at("port");
    const ApiClient api(host, port, ApiClient::negotiate(host, port, deadline));
    if (api.instance(deadline).at("instance").at("properties").at("id") != instance.at("id")) return;
    api.change_state(Change::Stop, deadline);
    for (std::uint64_t generation = 0;;) {
      const StateChange change = api.monitor_state(generation, deadline);
      if (change.state == State::Destroyed || change.state == State::Failed) return;
      generation = change.generation + 1;
    }
  } catch (const std::exception&) {  // it has ended, or its server has
  }
}

/// Whether the thing that a step makes is there, or may be: only a list without it says that it is not.
bool is_there(const Step& step) {
  if (step.list.empty()) return true;
  try {
    std::istringstream words(run_tool(step.list, Deadline::after(kStepTime)).out);
    return std::find(std::istream_iterator<std::string>(words), {}, step.name) != std::istream_iterator<std::string>();
  } catch (const std::exception&) {
    return true;
  }
}

/// The caller holds the lock. Returns why not all could be taken back, which the journal then says, too, with the steps that are
/// left; empty when none is.
std::string take_back(const fs::path& journal) {
  std::error_code ignored;
  if (!fs::exists(journal, ignored)) {
    forget(journal);  // its writer was killed before the first step, or has taken all back
    return "";
  }
  const json content = json::parse(read_file(journal));
  if (content.contains("instance")) stop_instance(content.at("instance"));
  const auto steps = content.at("steps").get<std::vector<Step>>();
  const std::size_t begun = content.at("begun");
  std::vector<std::pair<Step, std::string>> failed;
  for (std::size_t i = std::min(begun, steps.size()); i-- > 0;) {
    if (steps[i].undo.empty()) continue;
    try {
      run_tool(steps[i].undo, Deadline::after(kStepTime));
    } catch (const std::exception& error) {
      failed.emplace_back(steps[i], error.what());
    }
  }
  // Asked when all were tried: what was never done, or is done by hand, fails to be undone, and what cannot be halted may have
  // been deleted.
  std::vector<Step> left;
  std::string why;
  for (const auto& [step, words] : failed) {
    if (!is_there(step)) continue;
    left.insert(left.begin(), step);
    why += "cannot undo \"" + format_command(step.run) + "\": " + words + "\n";
  }
  if (left.empty()) {
    forget(journal);
    return "";
  }
  why += "The next run tries again, and \"vmtest gc\" does; " + journal.string() + " says what is left.";
  write_file(journal, json{{"steps", left}, {"begun", left.size()}, {"why", why}}.dump(2, ' ', false, kReplace) + "\n", 0600);
  return why;
}

/// The same, with the reason when it cannot be tried.
std::string try_take_back(const fs::path& journal) noexcept {
  try {
    return take_back(journal);
  } catch (const std::exception& error) {
    return "what " + journal.string() + " says cannot be taken back: " + error.what();
  }
}

/// Whether nothing is left.
bool told_clean(const std::string& why) {
  if (!why.empty()) std::fprintf(stderr, "%s\n", why.c_str());
  return why.empty();
}

}  // namespace

HostSteps::HostSteps(fs::path journal, std::vector<Step> steps, std::optional<ForeignInstance> instance)
    : journal_(std::move(journal)), steps_(std::move(steps)), instance_(std::move(instance)) {
  if (steps_.empty() && !instance_) return;
  ensure_private_dir(journal_.parent_path());
  lock_ = FileLock::lock(lock_of(journal_), Deadline::after(kLockTime));
  if (steps_.empty()) write_journal(0);
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    write_journal(i + 1);
    try {
      run_tool(steps_[i].run, Deadline::after(kStepTime));
    } catch (const std::exception& error) {
      const std::string why = error.what();
      const std::string left = try_take_back(journal_);
      throw Error("cannot prepare the host: " + why + (left.empty() ? "" : "\n" + left));
    }
  }
}

void HostSteps::write_journal(std::size_t begun) const {
  json content = {{"steps", steps_}, {"begun", begun}};
  if (instance_) content["instance"] = {{"host", instance_->host}, {"port", instance_->port}, {"id", instance_->id}};
  write_file(journal_, content.dump(2) + "\n", 0600);
}

HostSteps::~HostSteps() {
  if (lock_) (void)told_clean(try_take_back(journal_));
}

bool HostSteps::undo(const fs::path& journal) noexcept {
  try {
    if (!fs::exists(journal) && !fs::exists(lock_of(journal))) return true;
    const FileLock lock = FileLock::lock(lock_of(journal), Deadline::after(kLockTime));
    return told_clean(try_take_back(journal));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cannot take back what was done to the host: %s\n", error.what());
    return false;
  }
}

void HostSteps::undo_others(const fs::path& journal) noexcept {
  // One that hangs must not keep each run from its start for minutes.
  const Deadline deadline = Deadline::after(kStepTime);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(journal.parent_path(), error)) {
    if (entry.path() == journal || entry.path().extension() != journal.extension()) continue;
    if (deadline.expired()) return;
    try {
      if (const auto lock = FileLock::try_lock(lock_of(entry.path()))) (void)told_clean(try_take_back(entry.path()));
    } catch (const std::exception& why) {
      std::fprintf(stderr, "%s: %s\n", entry.path().c_str(), why.what());
    }
  }
}

}  // namespace vmtest::propolis
