#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "sftp_client.h"

namespace vmtest::ssh {

/// Writes the fields of an SFTP packet: numbers big-endian, strings with their length in front.
class SftpClient::Packet {
 public:
  explicit Packet(std::uint8_t type) : data_(4, '\0') { data_ += static_cast<char>(type); }

  void u32(std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) data_ += static_cast<char>(value >> shift);
  }
  void u64(std::uint64_t value) {
    u32(static_cast<std::uint32_t>(value >> 32));
    u32(static_cast<std::uint32_t>(value));
  }
  void text(std::string_view value) {
    u32(static_cast<std::uint32_t>(value.size()));
    data_ += value;
  }
  /// Attributes: permissions or none.
  void attributes(std::optional<unsigned> mode);
  /// The packet with its length in front.
  [[nodiscard]] std::string take();

 private:
  std::string data_;
};

/// Reads the same. Throws Error when a packet is shorter than it says.
class SftpClient::Reader {
 public:
  explicit Reader(std::string_view data) : data_(data) {}

  [[nodiscard]] std::uint32_t u32();
  [[nodiscard]] std::string_view text();
  [[nodiscard]] GuestFile attributes();
  [[nodiscard]] bool empty() const { return data_.empty(); }

 private:
  [[nodiscard]] std::string_view take(std::size_t size);

  std::string_view data_;
};

}  // namespace vmtest::ssh
