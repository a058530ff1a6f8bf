#include "guest/iso_reader.h"

#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "guest/files.h"

namespace vmtest::guest {
namespace {

constexpr std::size_t kBlock = 2048;
constexpr unsigned kFirstDescriptor = 16;
constexpr unsigned kMaxDescriptors = 16;
// A seed's files are small; a broken image must not make the guest read for minutes.
constexpr unsigned kMaxFolder = 1U << 20;
constexpr unsigned kMaxFile = 256U << 20;
constexpr std::size_t kRootRecord = 156;
constexpr std::size_t kRecordHeader = 33;

enum DescriptorType : unsigned char { kPrimary = 1, kSupplementary = 2, kTerminator = 255 };

unsigned read_le32(std::string_view bytes, std::size_t offset) {
  unsigned value = 0;
  for (std::size_t index = 4; index-- > 0;) {
    value = value << 8 | static_cast<unsigned char>(bytes[offset + index]);
  }
  return value;
}

std::optional<std::string> read_at(int fd, unsigned block, std::size_t size) {
  std::string data(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t count = pread(fd, data.data() + done, size - done, static_cast<off_t>(block * kBlock + done));
    if (count <= 0) {
      return std::nullopt;
    }
    done += static_cast<std::size_t>(count);
  }
  return data;
}

bool is_joliet(std::string_view descriptor) {
  const std::string_view escape = descriptor.substr(88, 3);
  return escape == "%/@" || escape == "%/C" || escape == "%/E";
}

/// UCS-2 big endian to ASCII; other characters do not occur in the names a seed has.
std::string narrow(std::string_view wide) {
  std::string out;
  for (std::size_t index = 0; index + 1 < wide.size(); index += 2) {
    out += wide[index] == 0 ? wide[index + 1] : '?';
  }
  return out;
}

/// The Rock Ridge alternate name (SUSP "NM" entries) in a record's system use area, or empty.
std::string rock_ridge_name(std::string_view area) {
  std::string name;
  while (area.size() >= 5) {
    const std::size_t length = static_cast<unsigned char>(area[2]);
    if (length < 4 || length > area.size()) {
      break;
    }
    if (area.substr(0, 2) == "NM" && length > 5) {
      name += area.substr(5, length - 5);
    }
    area.remove_prefix(length);
  }
  return name;
}

}  // namespace

std::optional<IsoReader> IsoReader::open(int fd) {
  std::string root;
  bool joliet = false;
  IsoReader reader;
  reader.fd_ = fd;
  for (unsigned index = 0; index < kMaxDescriptors; ++index) {
    const std::optional<std::string> descriptor = read_at(fd, kFirstDescriptor + index, kBlock);
    if (!descriptor || descriptor->compare(1, 5, "CD001") != 0) {
      break;
    }
    const auto type = static_cast<unsigned char>((*descriptor)[0]);
    if (type == kTerminator) {
      break;
    }
    if (type == kPrimary && root.empty()) {
      reader.label_ = trim(std::string_view(*descriptor).substr(40, 32));
      root = descriptor->substr(kRootRecord, 34);
    } else if (type == kSupplementary && is_joliet(*descriptor)) {
      root = descriptor->substr(kRootRecord, 34);
      joliet = true;
    }
  }
  if (root.empty()) {
    return std::nullopt;
  }
  const unsigned size = read_le32(root, 10);
  const std::optional<std::string> folder = size > kMaxFolder ? std::nullopt : read_at(fd, read_le32(root, 2), size);
  if (!folder) {
    return std::nullopt;
  }
  std::size_t offset = 0;
  while (offset < folder->size()) {
    const std::size_t length = static_cast<unsigned char>((*folder)[offset]);
    if (length == 0) {
      // Records do not cross blocks; the rest of this one is padding.
      offset = (offset / kBlock + 1) * kBlock;
      continue;
    }
    const std::string_view record = std::string_view(*folder).substr(offset, length);
    offset += length;
    const std::size_t name_length = record.size() > kRecordHeader ? static_cast<unsigned char>(record[32]) : 0;
    if (name_length == 0 || record.size() < kRecordHeader + name_length) {
      break;
    }
    const std::string_view raw = record.substr(kRecordHeader, name_length);
    // A pad byte keeps the system use area at an even offset.
    const std::size_t area = std::min(kRecordHeader + (name_length | 1), record.size());
    std::string name = joliet ? narrow(raw) : rock_ridge_name(record.substr(area));
    if (name.empty()) {
      name = raw;
    }
    name = name.substr(0, name.find(';'));
    reader.entries_.push_back({std::move(name), read_le32(record, 2), read_le32(record, 10)});
  }
  return reader;
}

std::optional<std::string> IsoReader::find(const std::string& name) const {
  for (const Entry& entry : entries_) {
    if (entry.name == name) {
      std::optional<std::string> content = entry.size > kMaxFile ? std::nullopt : read_at(fd_, entry.block, entry.size);
      if (!content) {
        throw std::runtime_error("the seed's ISO image is broken at " + name);
      }
      return content;
    }
  }
  return std::nullopt;
}

}  // namespace vmtest::guest
