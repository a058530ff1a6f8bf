#include "vmtest/host/text.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <memory>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

/// Length of the escape sequence at the start of `text` (which starts with ESC), after ECMA-48: CSI, OSC and other strings,
/// two-character escapes.
std::size_t escape_length(std::string_view text) {
  if (text.size() < 2) return text.size();
  const char kind = text[1];
  if (kind == '[') {
    std::size_t at = 2;
    while (at < text.size() && text[at] >= 0x20 && text[at] <= 0x3f) ++at;
    return at < text.size() && text[at] >= 0x40 && text[at] <= 0x7e ? at + 1 : at;
  }
  if (kind == ']' || kind == 'P' || kind == 'X' || kind == '^' || kind == '_') {
    for (std::size_t at = 2; at < text.size(); ++at) {
      if (text[at] == '\a') return at + 1;
      if (text[at] == '\x1b' && at + 1 < text.size() && text[at + 1] == '\\') return at + 2;
      if (text[at] == '\n') return at;  // never closed: take no more than the line
    }
    return text.size();
  }
  std::size_t at = 1;
  while (at < text.size() && text[at] >= 0x20 && text[at] <= 0x2f) ++at;
  return at < text.size() && text[at] >= 0x30 && text[at] <= 0x7e ? at + 1 : at;
}

/// Length of the UTF-8 character at the start of `text` (RFC 3629); 0 when there is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&text](std::size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U; };
  const unsigned lead = byte(0);
  const std::size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  for (std::size_t at = 1; at < length; ++at) {
    if ((byte(at) & 0xc0) != 0x80) return 0;
  }
  const unsigned second = byte(1);
  const bool out_of_range = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
                            (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f);
  return out_of_range ? 0 : length;
}

/// Whether a CI system could take the start of `text` for a command wherever it stands: "##[", "##vso[", "##teamcity[".
bool is_hash_command(std::string_view text) {
  if (!text.starts_with("##")) return false;
  std::size_t at = 2;
  while (at < text.size() && std::isalpha(static_cast<unsigned char>(text[at])) != 0) ++at;
  return at < text.size() && text[at] == '[';
}

/// Whether a line is a command of GitHub's, which looks for "::" behind white space of any kind.
bool is_colon_command(std::string_view line) {
  while (!line.empty() && (line.front() < '!' || line.front() > '~')) line.remove_prefix(1);
  return line.starts_with("::");
}

std::string break_workflow_commands(std::string_view text) {
  std::string result;
  bool line_start = true;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (line_start && is_colon_command(text.substr(at, text.find('\n', at) - at))) result += "| ";
    result += text[at];
    if (text[at] == '#' && is_hash_command(text.substr(at))) result += ' ';
    line_start = text[at] == '\n';
  }
  return result;
}

std::string hex(const unsigned char* data, std::size_t size) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < size; ++i) {
    text += kDigits[data[i] >> 4];
    text += kDigits[data[i] & 15];
  }
  return text;
}

/// A running SHA-256.
class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) throw Error("SHA-256 is not available");
  }
  void add(const void* data, std::size_t size) { EVP_DigestUpdate(context_.get(), data, size); }
  std::string finish() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned size = 0;
    EVP_DigestFinal_ex(context_.get(), digest.data(), &size);
    return hex(digest.data(), size);
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

template <std::size_t Size>
std::array<unsigned char, Size> random_bytes() {
  std::array<unsigned char, Size> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) throw_errno("cannot get random bytes");
  return bytes;
}

bool is_name_character(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.'; }

constexpr std::size_t kLongestName = 64;

}  // namespace

std::string sanitize_console(std::string_view text) {
  std::string plain;
  plain.reserve(text.size());
  while (!text.empty()) {
    const char c = text.front();
    if (c == '\x1b') {
      text.remove_prefix(escape_length(text));
      continue;
    }
    // C1 controls arrive as UTF-8 (c2 80..c2 9f); bare carriage returns would overwrite what stands before.
    if (c == '\xc2' && text.size() > 1 && static_cast<unsigned char>(text[1]) >= 0x80 &&
        static_cast<unsigned char>(text[1]) <= 0x9f) {
      text.remove_prefix(2);
      continue;
    }
    const std::size_t length = utf8_length(text);
    if (length != 1) {  // control characters of 8-bit terminals are no UTF-8
      plain += length == 0 ? "?" : text.substr(0, length);
      text.remove_prefix(std::max<std::size_t>(length, 1));
      continue;
    }
    const bool lone_return = c == '\r' && text.size() > 1 && text[1] != '\n' && text[1] != '\r';
    if (lone_return) plain += '\n';
    else if (c == '\n' || c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f)) plain += c;
    text.remove_prefix(1);
  }
  return break_workflow_commands(plain);
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string last_lines(std::string_view text, std::size_t lines) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  std::size_t at = text.size();
  for (std::size_t line = 0; line < lines; ++line) {
    if (at == 0) return std::string(text);
    const std::size_t newline = text.rfind('\n', at - 1);
    if (newline == std::string_view::npos) return std::string(text);
    at = newline;
  }
  return std::string(text.substr(at == text.size() ? at : at + 1));
}

std::string indent(std::string_view text, std::string_view prefix) {
  std::string result;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    result += prefix;
    result += text.substr(0, end);
    text.remove_prefix(end);
  }
  return result;
}

void require_name(std::string_view name, std::string_view what) {
  bool good = !name.empty() && name.size() <= kLongestName && name.front() != '-' && name.front() != '.';
  for (const char c : name) good = good && is_name_character(c);
  if (!good) {
    throw Error("\"" + sanitize_console(name.substr(0, 100)) + "\" cannot name " + std::string(what) +
                ": use 1-64 letters, digits, '-', '_' and '.', not starting with '-' or '.'");
  }
}

std::string make_name(std::string_view text) {
  std::string name;
  for (const char c : text.substr(0, kLongestName)) name += is_name_character(c) ? c : '-';
  while (!name.empty() && (name.front() == '-' || name.front() == '.')) name.erase(0, 1);
  return name.empty() ? "vm" : name;
}

std::string random_hex(std::size_t digits) {
  std::string text;
  while (text.size() < digits) {
    const auto bytes = random_bytes<16>();
    text += hex(bytes.data(), bytes.size());
  }
  text.resize(digits);
  return text;
}

std::string random_uuid() {
  auto bytes = random_bytes<16>();
  bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3f) | 0x80);
  std::string text = hex(bytes.data(), bytes.size());
  for (const std::size_t at : {8U, 13U, 18U, 23U}) text.insert(at, 1, '-');
  return text;
}

std::string random_mac() {
  auto bytes = random_bytes<6>();
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0xfe) | 0x02);
  std::string text = hex(&bytes[0], 1);
  for (std::size_t i = 1; i < bytes.size(); ++i) text.append(":").append(hex(&bytes[i], 1));
  return text;
}

std::string base64(std::string_view data) {
  std::string text(4 * ((data.size() + 2) / 3) + 1, '\0');  // OpenSSL ends it with a NUL
  const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                   reinterpret_cast<const unsigned char*>(data.data()), static_cast<int>(data.size()));
  text.resize(static_cast<std::size_t>(size));
  return text;
}

std::string sha256(std::string_view data) {
  Sha256 digest;
  digest.add(data.data(), data.size());
  return digest.finish();
}

std::string sha256_file(const std::filesystem::path& path) {
  const FileDescriptor fd = open_file(path, O_RDONLY);
  Sha256 digest;
  std::string buffer(1 << 20, '\0');
  for (;;) {
    const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count < 0) throw_errno("cannot read " + path.string());
    if (count == 0) return digest.finish();
    digest.add(buffer.data(), static_cast<std::size_t>(count));
  }
}

bool is_ip_address(const std::string& text) {
  unsigned char storage[16];
  if (text.find('\0') != std::string::npos) return false;
  return ::inet_pton(AF_INET, text.c_str(), storage) == 1 || ::inet_pton(AF_INET6, text.c_str(), storage) == 1;
}

}  // namespace vmtest
