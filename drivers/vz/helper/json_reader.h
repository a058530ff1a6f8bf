#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace vmtest::vz {

/// Reads one JSON object key by key and refuses what is missing, of another type, out of range, or unknown. Every refusal is
/// an ApiError with status 400 that names the place: "disks[0].image: must be an absolute path".
/// The JSON value is borrowed.
class JsonReader {
 public:
  /// `where` is the object's place in the body, empty for the body itself.
  JsonReader(const nlohmann::json& value, std::string where);

  [[nodiscard]] bool has(const std::string& key);
  [[nodiscard]] std::string string(const std::string& key);
  [[nodiscard]] std::string string_or(const std::string& key, const std::string& fallback);
  /// An absolute path, since the helper's working folder is nobody's business.
  [[nodiscard]] std::string path(const std::string& key);
  [[nodiscard]] std::string path_or_empty(const std::string& key);
  /// A path that a Unix socket can have.
  [[nodiscard]] std::string socket_path(const std::string& key);
  [[nodiscard]] bool boolean_or(const std::string& key, bool fallback);
  [[nodiscard]] std::uint64_t number(const std::string& key, std::uint64_t least, std::uint64_t most);
  [[nodiscard]] std::uint64_t number_or(const std::string& key, std::uint64_t least, std::uint64_t most, std::uint64_t fallback);
  /// The index in `choices` of the word under `key`.
  [[nodiscard]] std::size_t choice(const std::string& key, const std::vector<std::string_view>& choices);
  [[nodiscard]] std::size_t choice_or(const std::string& key, const std::vector<std::string_view>& choices, std::size_t fallback);
  /// The object under `key`, or empty when it is missing or null.
  [[nodiscard]] std::optional<JsonReader> object(const std::string& key);
  /// The objects of the array under `key`; none when it is missing.
  [[nodiscard]] std::vector<JsonReader> objects(const std::string& key);
  /// The numbers of the array under `key`; none when it is missing.
  [[nodiscard]] std::vector<std::uint64_t> numbers(const std::string& key, std::uint64_t least, std::uint64_t most);
  /// Names and objects of the object under `key`, which must have one at least.
  [[nodiscard]] std::vector<std::pair<std::string, JsonReader>> named_objects(const std::string& key);

  /// Refuses keys that nobody asked for.
  void finish() const;
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const;

 private:
  [[nodiscard]] const nlohmann::json* find(const std::string& key);
  [[nodiscard]] const nlohmann::json& get(const std::string& key);
  [[nodiscard]] std::string place(const std::string& key) const;

  const nlohmann::json* value_;
  std::string where_;
  std::set<std::string> known_;
};

}  // namespace vmtest::vz
