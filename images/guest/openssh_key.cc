#include "guest/openssh_key.h"

#include <optional>
#include <stdexcept>

#include "guest/files.h"

namespace vmtest::guest {
namespace {

constexpr std::string_view kBegin = "-----BEGIN OPENSSH PRIVATE KEY-----";
constexpr std::string_view kEnd = "-----END OPENSSH PRIVATE KEY-----";
constexpr std::string_view kMagic("openssh-key-v1\0", 15);
constexpr std::string_view kType = "ssh-ed25519";
constexpr std::size_t kPublicSize = 32;
constexpr std::size_t kPrivateSize = 64;

/// Reads the SSH wire format (RFC 4251, section 5).
class WireReader {
 public:
  explicit WireReader(std::string_view data) : data_(data) {}

  std::string_view bytes(std::size_t count) {
    if (count > data_.size()) {
      throw std::runtime_error("the SSH host key is cut short");
    }
    const std::string_view out = data_.substr(0, count);
    data_.remove_prefix(count);
    return out;
  }

  unsigned number() {
    unsigned value = 0;
    for (const char c : bytes(4)) {
      value = value << 8 | static_cast<unsigned char>(c);
    }
    return value;
  }

  std::string_view string() { return bytes(number()); }

 private:
  std::string_view data_;
};

void require(bool condition, const char* what) {
  if (!condition) {
    throw std::runtime_error(std::string("the SSH host key ") + what);
  }
}

std::string wire_string(std::string_view text) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) {
    out += static_cast<char>(text.size() >> shift & 0xFF);
  }
  return out.append(text);
}

}  // namespace

std::string dropbear_key(std::string_view openssh_key) {
  const std::size_t begin = openssh_key.find(kBegin);
  const std::size_t end = openssh_key.find(kEnd);
  require(begin != std::string_view::npos && end != std::string_view::npos && begin < end,
          "is not in OpenSSH's private key format");
  const std::size_t start = begin + kBegin.size();
  const std::optional<std::string> decoded = decode_base64(openssh_key.substr(start, end - start));
  require(decoded.has_value(), "is not Base64");
  WireReader reader(*decoded);
  require(reader.bytes(kMagic.size()) == kMagic, "is not in OpenSSH's private key format");
  const std::string_view cipher = reader.string();
  const std::string_view derivation = reader.string();
  (void)reader.string();
  require(cipher == "none" && derivation == "none", "has a passphrase");
  require(reader.number() == 1, "file does not hold exactly one key");
  (void)reader.string();
  WireReader section(reader.string());
  require(section.number() == section.number(), "has wrong check numbers");
  require(section.string() == kType, "is not an ed25519 key");
  const std::string_view public_half = section.string();
  const std::string_view private_half = section.string();
  require(public_half.size() == kPublicSize && private_half.size() == kPrivateSize &&
              private_half.substr(kPrivateSize - kPublicSize) == public_half,
          "is not a whole ed25519 key");
  return wire_string(kType) + wire_string(private_half);
}

}  // namespace vmtest::guest
