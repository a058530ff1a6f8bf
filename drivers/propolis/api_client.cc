#include "api_client.h"

#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <utility>

#include "vmtest/host/text.h"

namespace vmtest::propolis {
namespace {

using nlohmann::json;

constexpr int kBadRequest = 400;
constexpr int kNoInstance = 424;
constexpr std::size_t kShownLength = 2000;

constexpr std::array<std::pair<std::string_view, State>, 10> kStates = {{{"Creating", State::Creating},
                                                                         {"Starting", State::Starting},
                                                                         {"Running", State::Running},
                                                                         {"Stopping", State::Stopping},
                                                                         {"Stopped", State::Stopped},
                                                                         {"Rebooting", State::Rebooting},
                                                                         {"Migrating", State::Migrating},
                                                                         {"Repairing", State::Repairing},
                                                                         {"Failed", State::Failed},
                                                                         {"Destroyed", State::Destroyed}}};

State parse_state(const std::string& name) {
  for (const auto& [known, state] : kStates) {
    if (name == known) return state;
  }
  throw Error("propolis-server says that its instance is in a state that is not known here: " + sanitize_console(name));
}

std::string_view to_string(Change change) {
  switch (change) {
    case Change::Run:
      return "Run";
    case Change::Stop:
      return "Stop";
    case Change::Reboot:
      return "Reboot";
  }
  return "?";
}

/// Takes what an answer holds; throws Error when it is not what the endpoint's description says.
template <typename Take>
auto taken(const json& answer, const std::string& endpoint, Take&& take) -> decltype(take(answer)) {
  try {
    return take(answer);
  } catch (const json::exception& error) {
    throw Error("the answer to " + endpoint + " is not what propolis-server's API describes: " + error.what());
  }
}

std::string segment(const std::string& name) {
  constexpr const char* kDigits = "0123456789ABCDEF";
  std::string text;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || c == '-' || c == '_' || c == '.') text += c;
    else text += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return text;
}

}  // namespace

std::string_view to_string(State state) {
  for (const auto& [name, known] : kStates) {
    if (state == known) return name;
  }
  return "?";
}

Refusal parse_refusal(const std::string& body) {
  const json words = json::parse(body, nullptr, false);
  Refusal refusal;
  if (words.is_object()) {
    const auto text = [&](const char* key) {
      const auto found = words.find(key);
      return found != words.end() && found->is_string() ? found->get<std::string>() : std::string();
    };
    refusal = {text("message"), text("error_code")};
  }
  if (refusal.words.empty()) refusal.words = body;
  if (refusal.words.size() > kShownLength) refusal.words = refusal.words.substr(0, kShownLength) + " ...";
  refusal.words = refusal.words.empty() ? "no reason given" : sanitize_console(refusal.words);
  return refusal;
}

std::string ApiClient::ask(const char* method, const std::string& path, const std::string& body, const Deadline& deadline) const {
  HttpReply reply = http_.send({method, path, body, {{kVersionHeader, version_}}}, deadline);
  constexpr int kFirstOk = 200;
  constexpr int kAfterOk = 300;
  if (reply.status >= kFirstOk && reply.status < kAfterOk) return std::move(reply.body);
  const Refusal refusal = parse_refusal(reply.body);
  throw Refused(reply.status, refusal.code,
                std::string("propolis-server refuses ") + method + " " + path + " (" + std::to_string(reply.status) +
                    (refusal.code.empty() ? "" : ", " + sanitize_console(refusal.code)) + "): " + refusal.words);
}

json ApiClient::get(const std::string& path, const Deadline& deadline) const {
  json answer = json::parse(ask("GET", path, "", deadline), nullptr, false);
  if (!answer.is_object()) throw Error("the answer to " + path + " is no JSON object");
  return answer;
}

std::string ApiClient::negotiate(const std::string& host, std::uint16_t port, const Deadline& deadline) {
  std::string last;
  for (const char* version : {kNewestVersion, kOldestVersion}) {
    try {
      (void)ApiClient(host, port, version).find_state(deadline);
      return version;
    } catch (const Refused& refused) {
      // There is nothing else in this request that could be bad.
      if (refused.status() != kBadRequest) throw;
      last = refused.what();
    }
  }
  throw Error("the server at " + host + ":" + std::to_string(port) + " speaks neither version " + kNewestVersion + " nor " +
              kOldestVersion + " of the API\n" + last);
}

void ApiClient::ensure(const std::string& body, const Deadline& deadline) const { (void)ask("PUT", "/instance", body, deadline); }

std::optional<State> ApiClient::find_state(const Deadline& deadline) const {
  try {
    return taken(get("/instance", deadline), "/instance",
                 [](const json& answer) { return parse_state(answer.at("instance").at("state")); });
  } catch (const Refused& refused) {
    if (refused.status() == kNoInstance) return std::nullopt;
    throw;
  }
}

json ApiClient::instance(const Deadline& deadline) const { return get("/instance", deadline); }
json ApiClient::spec(const Deadline& deadline) const { return get("/instance/spec", deadline); }

void ApiClient::change_state(Change change, const Deadline& deadline) const {
  (void)ask("PUT", "/instance/state", json(to_string(change)).dump(), deadline);
}

StateChange ApiClient::monitor_state(std::uint64_t generation, const Deadline& deadline) const {
  const std::string path = "/instance/state-monitor";
  const json answer = json::parse(ask("GET", path, json{{"gen", generation}}.dump(), deadline), nullptr, false);
  return taken(answer, path, [](const json& told) { return StateChange{told.at("gen"), parse_state(told.at("state"))}; });
}

SerialHistory ApiClient::serial_history(const std::string& query, std::size_t max_bytes, const Deadline& deadline) const {
  const std::string path = "/instance/serial/history?" + query + "&max_bytes=" + std::to_string(max_bytes);
  return taken(get(path, deadline), path, [](const json& answer) {
    SerialHistory history;
    for (const json& byte : answer.at("data")) history.data += static_cast<char>(byte.get<std::uint8_t>());
    history.end = answer.at("last_byte_offset");
    return history;
  });
}

SerialHistory ApiClient::serial_history_from(std::uint64_t offset, std::size_t max_bytes, const Deadline& deadline) const {
  return serial_history("from_start=" + std::to_string(offset), max_bytes, deadline);
}

SerialHistory ApiClient::serial_history_last(std::uint64_t bytes, std::size_t max_bytes, const Deadline& deadline) const {
  return serial_history("most_recent=" + std::to_string(bytes), max_bytes, deadline);
}

void ApiClient::inject_nmi(const Deadline& deadline) const { (void)ask("POST", "/instance/nmi", "", deadline); }
json ApiClient::migration_status(const Deadline& deadline) const { return get("/instance/migration-status", deadline); }

void ApiClient::snapshot_disk(const std::string& disk, const std::string& snapshot_id, const Deadline& deadline) const {
  (void)ask("POST", "/instance/disk/" + segment(disk) + "/snapshot/" + segment(snapshot_id), "", deadline);
}

json ApiClient::disk_status(const std::string& disk, const Deadline& deadline) const {
  return get("/instance/disk/" + segment(disk) + "/status", deadline);
}

std::string ApiClient::replace_volume(const std::string& disk, const json& request, const Deadline& deadline) const {
  const std::string path = "/instance/disk/" + segment(disk) + "/vcr";
  const std::string body = json{{"vcr_json", request.dump()}}.dump();
  const json answer = json::parse(ask("PUT", path, body, deadline), nullptr, false);
  return taken(answer, path, [](const json& told) { return told.get<std::string>(); });
}

}  // namespace vmtest::propolis
