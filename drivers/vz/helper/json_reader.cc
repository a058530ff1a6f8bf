#include "json_reader.h"

#include <algorithm>

#include "api_error.h"
#include "unix_socket.h"

namespace vmtest::vz {

using nlohmann::json;

namespace {

bool is_in_range(const json& value, std::uint64_t least, std::uint64_t most) {
  if (!value.is_number_integer() || (!value.is_number_unsigned() && value.get<std::int64_t>() < 0)) return false;
  const auto number = value.get<std::uint64_t>();
  return number >= least && number <= most;
}

}  // namespace

JsonReader::JsonReader(const json& value, std::string where) : value_(&value), where_(std::move(where)) {
  if (!value.is_object()) throw ApiError(kBadRequest, (where_.empty() ? "the body" : where_) + ": must be a JSON object");
}

std::string JsonReader::place(const std::string& key) const { return where_.empty() ? key : where_ + "." + key; }

void JsonReader::refuse(const std::string& key, const std::string& why) const {
  throw ApiError(kBadRequest, place(key) + ": " + why);
}

const json* JsonReader::find(const std::string& key) {
  known_.insert(key);
  const auto found = value_->find(key);
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

const json& JsonReader::get(const std::string& key) {
  const json* found = find(key);
  if (found == nullptr) refuse(key, "is missing");
  return *found;
}

bool JsonReader::has(const std::string& key) { return find(key) != nullptr; }

std::string JsonReader::string(const std::string& key) {
  const json& value = get(key);
  if (!value.is_string()) refuse(key, "must be a string");
  std::string text = value.get<std::string>();
  // The framework takes C strings, which would end there.
  if (text.find('\0') != std::string::npos) refuse(key, "must not hold a null character");
  return text;
}

std::string JsonReader::string_or(const std::string& key, const std::string& fallback) {
  return has(key) ? string(key) : fallback;
}

std::string JsonReader::path(const std::string& key) {
  std::string path = string(key);
  if (path.empty() || path.front() != '/') refuse(key, "must be an absolute path, not '" + path + "'");
  return path;
}

std::string JsonReader::path_or_empty(const std::string& key) { return has(key) ? path(key) : std::string(); }

std::string JsonReader::socket_path(const std::string& key) {
  std::string text = path(key);
  if (text.size() > kLongestSocketPath) {
    refuse(key,
           "has " + std::to_string(text.size()) + " bytes, and a Unix socket's path up to " + std::to_string(kLongestSocketPath));
  }
  return text;
}

bool JsonReader::boolean_or(const std::string& key, bool fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) refuse(key, "must be true or false");
  return value->get<bool>();
}

std::uint64_t JsonReader::number(const std::string& key, std::uint64_t least, std::uint64_t most) {
  const json& value = get(key);
  if (!is_in_range(value, least, most)) {
    refuse(key, "must be a whole number from " + std::to_string(least) + " to " + std::to_string(most) + ", not " + value.dump());
  }
  return value.get<std::uint64_t>();
}

std::uint64_t JsonReader::number_or(const std::string& key, std::uint64_t least, std::uint64_t most, std::uint64_t fallback) {
  return has(key) ? number(key, least, most) : fallback;
}

std::size_t JsonReader::choice(const std::string& key, const std::vector<std::string_view>& choices) {
  const std::string word = string(key);
  const auto found = std::find(choices.begin(), choices.end(), word);
  if (found == choices.end()) {
    std::string list;
    for (const std::string_view choice : choices) list += (list.empty() ? "" : ", ") + std::string(choice);
    refuse(key, "must be one of " + list + ", not '" + word + "'");
  }
  return static_cast<std::size_t>(found - choices.begin());
}

std::size_t JsonReader::choice_or(const std::string& key, const std::vector<std::string_view>& choices, std::size_t fallback) {
  return has(key) ? choice(key, choices) : fallback;
}

std::optional<JsonReader> JsonReader::object(const std::string& key) {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  return JsonReader(*value, place(key));
}

std::vector<JsonReader> JsonReader::objects(const std::string& key) {
  const json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) refuse(key, "must be an array");
  std::vector<JsonReader> readers;
  for (const json& element : *value) readers.emplace_back(element, place(key) + "[" + std::to_string(readers.size()) + "]");
  return readers;
}

std::vector<std::uint64_t> JsonReader::numbers(const std::string& key, std::uint64_t least, std::uint64_t most) {
  const json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) refuse(key, "must be an array");
  std::vector<std::uint64_t> numbers;
  for (const json& element : *value) {
    if (!is_in_range(element, least, most)) {
      refuse(key,
             "must hold whole numbers from " + std::to_string(least) + " to " + std::to_string(most) + ", not " + element.dump());
    }
    numbers.push_back(element.get<std::uint64_t>());
  }
  return numbers;
}

std::vector<std::pair<std::string, JsonReader>> JsonReader::named_objects(const std::string& key) {
  const json& value = get(key);
  if (!value.is_object() || value.empty()) refuse(key, "must be a JSON object with one entry at least");
  std::vector<std::pair<std::string, JsonReader>> readers;
  for (const auto& [name, element] : value.items()) readers.emplace_back(name, JsonReader(element, place(key) + "." + name));
  return readers;
}

void JsonReader::finish() const {
  for (const auto& entry : value_->items()) {
    if (known_.count(entry.key()) != 0) continue;
    std::string list;
    for (const std::string& key : known_) list += (list.empty() ? "" : ", ") + key;
    refuse(entry.key(), "is not known here; known are " + list);
  }
}

}  // namespace vmtest::vz
