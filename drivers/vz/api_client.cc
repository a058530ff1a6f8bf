#include "vz/api_client.h"

#include <array>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest::vz_driver {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kName = "vmtest-vz-helper";
constexpr int kApi = 1;
/// The host's system or processor does not offer it.
constexpr int kNotOffered = 501;

template <typename Call>
auto told_apart(Call&& call) -> decltype(call()) {
  try {
    return call();
  } catch (const Refused& refused) {
    if (refused.status() == kNotOffered) throw Unsupported(refused.what());
    throw;
  }
}

/// Takes what an answer holds.
template <typename Take>
auto taken(const json& answer, const char* endpoint, Take&& take) -> decltype(take(answer)) {
  try {
    return take(answer);
  } catch (const json::exception& error) {
    throw Error(std::string("the answer to ") + endpoint + " is not the VZ helper's: " + error.what());
  }
}

std::string text_of(const json& value) {
  if (value.is_string()) return value;
  std::string text;
  if (!value.is_array()) return text;
  for (const json& part : value) {
    if (part.is_string()) text += (text.empty() ? "" : ": ") + part.get<std::string>();
  }
  return text;
}

}  // namespace

void ApiClient::put(const char* endpoint, const Deadline& deadline) const {
  told_apart([&] { api_.put(endpoint, deadline); });
}
void ApiClient::put(const char* endpoint, const json& body, const Deadline& deadline) const {
  told_apart([&] { api_.put(endpoint, body, deadline); });
}

void ApiClient::ping(const Deadline& deadline) const {
  taken(api_.get("vmm.ping", deadline), "vmm.ping", [](const json& answer) {
    const std::string name = answer.at("name");
    const int api = answer.at("api");
    if (name != kName) throw Error("the program that answers is no VZ helper: it calls itself " + sanitize_console(name));
    if (api != kApi) {
      throw Error("the VZ helper speaks version " + std::to_string(api) + " of its API, this driver version " +
                  std::to_string(kApi) + "; both are to be of one installation");
    }
    return 0;
  });
}

void ApiClient::create(const json& config, const Deadline& deadline) const { put("vm.create", config, deadline); }
void ApiClient::save(const fs::path& file, const Deadline& deadline) const {
  put("vm.save", {{"path", fs::absolute(file).string()}}, deadline);
}
void ApiClient::restore(const fs::path& file, const Deadline& deadline) const {
  put("vm.restore", {{"path", fs::absolute(file).string()}}, deadline);
}
void ApiClient::attach_usb_disk(const json& disk, const Deadline& deadline) const { put("vm.attach-usb-disk", disk, deadline); }
void ApiClient::detach_usb_disk(const std::string& id, const Deadline& deadline) const {
  put("vm.detach-usb-disk", {{"id", id}}, deadline);
}

State ApiClient::state(const Deadline& deadline) const {
  return taken(api_.get("vm.info", deadline), "vm.info", [](const json& answer) {
    constexpr std::array<std::pair<const char*, State>, 10> kStates = {{{"Stopped", State::Stopped},
                                                                        {"Running", State::Running},
                                                                        {"Paused", State::Paused},
                                                                        {"Error", State::Error},
                                                                        {"Starting", State::Starting},
                                                                        {"Pausing", State::Pausing},
                                                                        {"Resuming", State::Resuming},
                                                                        {"Stopping", State::Stopping},
                                                                        {"Saving", State::Saving},
                                                                        {"Restoring", State::Restoring}}};
    const std::string name = answer.at("state");
    for (const auto& [known, state] : kStates) {
      if (name == known) return state;
    }
    throw Error("the VZ helper says that its VM is in a state that is not known here: " + sanitize_console(name));
  });
}

std::vector<Event> parse_events(std::string_view text) {
  std::vector<Event> events;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    const json object = json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("event") || !object["event"].is_string()) continue;
    Event event{object["event"]};
    if (object.contains("why")) event.why = text_of(object["why"]);
    else if (object.contains("errors")) event.why = text_of(object["errors"]);
    events.push_back(std::move(event));
  }
  return events;
}

}  // namespace vmtest::vz_driver
