#include "sftp_packet.h"

#include <utility>

#include "vmtest/error.h"

namespace vmtest::ssh {
namespace {

constexpr std::uint32_t kAttributeSize = 1;
constexpr std::uint32_t kAttributeOwner = 2;
constexpr std::uint32_t kAttributePermissions = 4;
constexpr std::uint32_t kAttributeTimes = 8;
constexpr std::uint32_t kAttributeExtended = 0x80000000;

// The file type in the permissions, as on every Unix (S_IFMT).
constexpr std::uint32_t kTypeMask = 0170000;
constexpr std::uint32_t kTypeFolder = 0040000;
constexpr std::uint32_t kTypeFile = 0100000;
constexpr std::uint32_t kTypeLink = 0120000;

}  // namespace

void SftpClient::Packet::attributes(std::optional<unsigned> mode) {
  u32(mode ? kAttributePermissions : 0);
  if (mode) u32(*mode);
}

std::string SftpClient::Packet::take() {
  const auto size = static_cast<std::uint32_t>(data_.size() - 4);
  for (int i = 0; i < 4; ++i) data_[static_cast<std::size_t>(i)] = static_cast<char>(size >> (24 - 8 * i));
  return std::move(data_);
}

std::string_view SftpClient::Reader::take(std::size_t size) {
  if (size > data_.size()) throw Error("the guest's SFTP server sent a packet that ends in the middle");
  const std::string_view taken = data_.substr(0, size);
  data_.remove_prefix(size);
  return taken;
}

std::uint32_t SftpClient::Reader::u32() {
  std::uint32_t value = 0;
  for (const char c : take(4)) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

std::string_view SftpClient::Reader::text() { return take(u32()); }

GuestFile SftpClient::Reader::attributes() {
  GuestFile file;
  const std::uint32_t flags = u32();
  if ((flags & kAttributeSize) != 0) (void)take(8);
  if ((flags & kAttributeOwner) != 0) (void)take(8);
  if ((flags & kAttributePermissions) != 0) {
    const std::uint32_t mode = u32();
    file.mode = mode & 07777;
    const std::uint32_t type = mode & kTypeMask;
    file.kind = type == kTypeFolder ? FileKind::Folder
                : type == kTypeFile ? FileKind::File
                : type == kTypeLink ? FileKind::Link
                                    : FileKind::Other;
  }
  if ((flags & kAttributeTimes) != 0) (void)take(8);
  if ((flags & kAttributeExtended) != 0) {
    for (std::uint32_t count = u32(); count > 0; --count) {
      (void)text();
      (void)text();
    }
  }
  return file;
}

}  // namespace vmtest::ssh
