#include "event_stream.h"

#include <nlohmann/json.hpp>

namespace vmtest::cloud_hypervisor {
namespace {

/// An event takes some hundred bytes: what is longer is none, and must not fill the memory.
constexpr std::size_t kLongestObject = 1U << 20;

}  // namespace

std::vector<Event> EventStream::take(std::string_view text) {
  std::vector<Event> events;
  for (const char c : text) {
    if (depth_ == 0 && c != '{') continue;
    object_ += c;
    if (escaped_) escaped_ = false;
    else if (in_string_) {
      if (c == '\\') escaped_ = true;
      if (c == '"') in_string_ = false;
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{') {
      ++depth_;
    } else if (c == '}') {
      --depth_;
    }
    const bool endless = object_.size() > kLongestObject;
    if (depth_ != 0 && !endless) continue;
    const auto object = nlohmann::json::parse(object_, nullptr, false);
    if (object.is_object() && object.contains("source") && object["source"].is_string() && object.contains("event") &&
        object["event"].is_string()) {
      events.push_back({object["source"], object["event"]});
    }
    object_.clear();
    depth_ = 0;
    in_string_ = false;
    escaped_ = false;
  }
  return events;
}

}  // namespace vmtest::cloud_hypervisor
