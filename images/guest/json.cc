#include "guest/json.h"

#include <algorithm>
#include <stdexcept>

namespace vmtest::guest {
namespace {

constexpr int kMaxDepth = 64;

[[noreturn]] void wrong_type(std::string_view what, std::string_view expected) {
  throw std::runtime_error(std::string(what) + " is not " + std::string(expected));
}

void append_utf8(std::string& out, unsigned code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

}  // namespace

/// Recursive descent over one text.
class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  Json document() {
    Json value = read_value(0);
    skip_blanks();
    if (position_ != text_.size()) {
      fail("text after the value");
    }
    return value;
  }

 private:
  [[noreturn]] void fail(std::string_view why) const {
    const std::string_view before = text_.substr(0, position_);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const std::size_t start = before.rfind('\n');
    const std::size_t column = position_ - (start == std::string_view::npos ? 0 : start + 1) + 1;
    throw std::runtime_error("JSON line " + std::to_string(line) + " column " + std::to_string(column) + ": " + std::string(why));
  }

  void skip_blanks() {
    while (position_ < text_.size() && std::string_view(" \t\r\n").find(text_[position_]) != std::string_view::npos) {
      ++position_;
    }
  }

  [[nodiscard]] char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }

  char take() {
    if (position_ == text_.size()) {
      fail("ends too early");
    }
    return text_[position_++];
  }

  bool accept(char wanted) {
    skip_blanks();
    if (peek() != wanted) {
      return false;
    }
    ++position_;
    return true;
  }

  void expect(char wanted) {
    if (!accept(wanted)) {
      fail(std::string("expected '") + wanted + "'");
    }
  }

  void expect_word(std::string_view word) {
    if (text_.substr(position_, word.size()) != word) {
      fail("unknown word");
    }
    position_ += word.size();
  }

  Json read_value(int depth) {
    if (depth > kMaxDepth) {
      fail("nested too deeply");
    }
    skip_blanks();
    Json value;
    switch (peek()) {
      case '{':
        value.type_ = Json::Type::Object;
        read_members(value, depth);
        break;
      case '[':
        value.type_ = Json::Type::Array;
        read_elements(value, depth);
        break;
      case '"':
        value.type_ = Json::Type::String;
        value.text_ = read_string();
        break;
      case 't':
      case 'f':
        value.type_ = Json::Type::Boolean;
        value.boolean_ = peek() == 't';
        expect_word(value.boolean_ ? "true" : "false");
        break;
      case 'n':
        expect_word("null");
        break;
      default:
        value.type_ = Json::Type::Number;
        value.text_ = read_number();
    }
    return value;
  }

  void read_members(Json& value, int depth) {
    expect('{');
    if (accept('}')) {
      return;
    }
    do {
      skip_blanks();
      std::string key = read_string();
      for (const auto& [known, unused] : value.members_) {
        if (known == key) {
          fail("key \"" + key + "\" stands twice");
        }
      }
      expect(':');
      value.members_.emplace_back(std::move(key), read_value(depth + 1));
    } while (accept(','));
    expect('}');
  }

  void read_elements(Json& value, int depth) {
    expect('[');
    if (accept(']')) {
      return;
    }
    do {
      value.elements_.push_back(read_value(depth + 1));
    } while (accept(','));
    expect(']');
  }

  std::string read_string() {
    if (take() != '"') {
      --position_;
      fail("expected a string");
    }
    std::string out;
    while (true) {
      // Base64 content is long: plain runs are copied whole.
      const std::size_t start = position_;
      while (position_ < text_.size() && text_[position_] != '"' && text_[position_] != '\\' &&
             static_cast<unsigned char>(text_[position_]) >= 0x20) {
        ++position_;
      }
      out.append(text_, start, position_ - start);
      const char next = take();
      if (next == '"') {
        return out;
      }
      if (next != '\\') {
        fail("control character in a string");
      }
      read_escape(out);
    }
  }

  void read_escape(std::string& out) {
    static constexpr std::string_view kNames = "\"\\/bfnrt";
    static constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
    const char name = take();
    if (const std::size_t index = kNames.find(name); index != std::string_view::npos) {
      out += kValues[index];
      return;
    }
    if (name != 'u') {
      fail("unknown escape");
    }
    unsigned code = read_hex();
    if (code >= 0xD800 && code < 0xDC00) {
      if (take() != '\\' || take() != 'u') {
        fail("half a surrogate pair");
      }
      const unsigned low = read_hex();
      if (low < 0xDC00 || low > 0xDFFF) {
        fail("half a surrogate pair");
      }
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
      fail("half a surrogate pair");
    }
    append_utf8(out, code);
  }

  unsigned read_hex() {
    unsigned code = 0;
    for (int digit = 0; digit < 4; ++digit) {
      const char c = take();
      const int value = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
      if (value < 0) {
        fail("wrong \\u escape");
      }
      code = code << 4 | static_cast<unsigned>(value);
    }
    return code;
  }

  std::size_t skip_digits() {
    const std::size_t start = position_;
    while (peek() >= '0' && peek() <= '9') {
      ++position_;
    }
    return position_ - start;
  }

  std::string read_number() {
    const std::size_t start = position_;
    if (peek() == '-') {
      ++position_;
    }
    const bool zero = peek() == '0';
    const std::size_t whole = skip_digits();
    bool good = whole > 0 && (!zero || whole == 1);
    if (peek() == '.') {
      ++position_;
      good = skip_digits() > 0 && good;
    }
    if (peek() == 'e' || peek() == 'E') {
      ++position_;
      if (peek() == '+' || peek() == '-') {
        ++position_;
      }
      good = skip_digits() > 0 && good;
    }
    if (!good) {
      position_ = start;
      fail("expected a value");
    }
    return std::string(text_.substr(start, position_ - start));
  }

  std::string_view text_;
  std::size_t position_ = 0;
};

Json Json::parse(std::string_view text) { return JsonReader(text).document(); }

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : members_) {
    if (name == key) {
      return value.is(Type::Null) ? nullptr : &value;
    }
  }
  return nullptr;
}

bool Json::boolean(std::string_view what) const {
  if (!is(Type::Boolean)) {
    wrong_type(what, "true or false");
  }
  return boolean_;
}

const std::string& Json::string(std::string_view what) const {
  if (!is(Type::String)) {
    wrong_type(what, "a string");
  }
  return text_;
}

const std::vector<Json>& Json::array(std::string_view what) const {
  if (!is(Type::Array)) {
    wrong_type(what, "a list");
  }
  return elements_;
}

const std::vector<Json::Member>& Json::object(std::string_view what) const {
  if (!is(Type::Object)) {
    wrong_type(what, "an object");
  }
  return members_;
}

std::vector<std::string> Json::strings(std::string_view what) const {
  std::vector<std::string> out;
  for (const Json& element : array(what)) {
    out.push_back(element.string(what));
  }
  return out;
}

}  // namespace vmtest::guest
