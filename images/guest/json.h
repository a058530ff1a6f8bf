#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vmtest::guest {

/// A JSON value (RFC 8259), read only. A reader of our own: the guest's binary is mapped and relocated at every boot under
/// emulation, and a seed needs no more than this.
class Json {
 public:
  enum class Type { Null, Boolean, Number, String, Array, Object };
  using Member = std::pair<std::string, Json>;

  /// Reads exactly one value; blanks around it are fine, anything else, a key given twice or nesting deeper than 64 throws
  /// std::runtime_error with line and column.
  [[nodiscard]] static Json parse(std::string_view text);

  [[nodiscard]] Type type() const { return type_; }
  [[nodiscard]] bool is(Type type) const { return type_ == type; }
  /// The member of that name, or null when it is absent, JSON null, or this is no object.
  [[nodiscard]] const Json* find(std::string_view key) const;

  /// Each throws std::runtime_error that starts with `what` when the value is of another type.
  [[nodiscard]] bool boolean(std::string_view what) const;
  [[nodiscard]] const std::string& string(std::string_view what) const;
  [[nodiscard]] const std::vector<Json>& array(std::string_view what) const;
  [[nodiscard]] const std::vector<Member>& object(std::string_view what) const;
  /// An array of strings.
  [[nodiscard]] std::vector<std::string> strings(std::string_view what) const;

 private:
  friend class JsonReader;

  Type type_ = Type::Null;
  bool boolean_ = false;
  /// Of a string its text, of a number its digits.
  std::string text_;
  std::vector<Json> elements_;
  std::vector<Member> members_;
};

}  // namespace vmtest::guest
