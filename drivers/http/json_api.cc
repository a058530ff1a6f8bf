#include "http/json_api.h"

#include <nlohmann/json.hpp>

#include "vmtest/host/text.h"

namespace vmtest {
namespace {

using nlohmann::json;

constexpr int kOk = 200;
constexpr int kNoContent = 204;
constexpr std::size_t kShownLength = 2000;

}  // namespace

std::string words_of_refusal(const std::string& body) {
  const json words = json::parse(body, nullptr, false);
  std::string text;
  if (words.is_array()) {
    for (const json& word : words) {
      if (!word.is_string()) continue;
      text += (text.empty() ? "" : ": ") + word.get<std::string>();
    }
  }
  if (text.empty()) text = body;
  if (text.size() > kShownLength) text = text.substr(0, kShownLength) + " ...";
  return text.empty() ? "no reason given" : sanitize_console(text);
}

HttpReply JsonApi::ask(const char* method, const char* endpoint, const std::string& body, const Deadline& deadline) const {
  HttpReply reply = http_.send({method, std::string("/api/v1/") + endpoint, body}, deadline);
  if (reply.status == kOk || reply.status == kNoContent) return reply;
  throw Refused(reply.status, std::string(title_) + " refuses " + endpoint + " (" + std::to_string(reply.status) +
                                  "): " + words_of_refusal(reply.body));
}

void JsonApi::put(const char* endpoint, const Deadline& deadline) const { (void)ask("PUT", endpoint, "", deadline); }

void JsonApi::put(const char* endpoint, const json& body, const Deadline& deadline) const {
  (void)ask("PUT", endpoint, body.dump(), deadline);
}

json JsonApi::get(const char* endpoint, const Deadline& deadline) const {
  json answer = json::parse(ask("GET", endpoint, "", deadline).body, nullptr, false);
  if (!answer.is_object()) throw Error(std::string("the answer to ") + endpoint + " is no JSON object");
  return answer;
}

}  // namespace vmtest
