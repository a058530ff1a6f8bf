// An SFTP server that lies, for tests: it stands behind a real sshd. Its first argument says how.
//
//   name NAME          every folder holds one file, of that name
//   link TARGET        every folder holds one link "link", which leads there
//   deep               every folder holds a folder "d"
//   endless            a folder whose listing has no end
//   cut                a file of which the first kilobytes come, and then nothing
//   garbage            answers that are no packets

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

namespace {

constexpr std::uint32_t kFolderMode = 0040755;
constexpr std::uint32_t kFileMode = 0100644;
constexpr std::uint32_t kLinkMode = 0120777;

std::string u32(std::uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}
std::string text(const std::string& value) { return u32(static_cast<std::uint32_t>(value.size())) + value; }
std::string mode(std::uint32_t value) { return u32(4) + u32(value); }

void read_all(char* data, std::size_t size) {
  for (std::size_t done = 0; done < size;) {
    const ssize_t got = ::read(0, data + done, size - done);
    if (got <= 0) std::exit(0);
    done += static_cast<std::size_t>(got);
  }
}

void answer(char type, const std::string& body) {
  const std::string packet = u32(static_cast<std::uint32_t>(body.size() + 1)) + type + body;
  if (::write(1, packet.data(), packet.size()) < 0) std::exit(1);
}

std::uint32_t number(const std::string& data, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = at; i < at + 4 && i < data.size(); ++i) value = value << 8 | static_cast<unsigned char>(data[i]);
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  const std::string what = argc > 2 ? argv[2] : "";
  bool listed = false;
  while (true) {
    std::string size(4, '\0');
    read_all(size.data(), size.size());
    std::string packet(number(size, 0), '\0');
    read_all(packet.data(), packet.size());
    const std::string id = packet.substr(1, 4);
    switch (packet[0]) {
      case 1:  // INIT
        answer(2, u32(3));
        break;
      case 3:   // OPEN
      case 11:  // OPENDIR
        listed = false;
        answer(102, id + text("handle"));
        break;
      case 5:  // READ
        answer(103, id + text(std::string(4096, 'x')));
        if (how == "cut") return 0;
        break;
      case 12:  // READDIR
        if (listed) {
          answer(101, id + u32(1) + text("") + text(""));
        } else if (how == "endless") {
          std::string entries;
          for (int i = 0; i < 10000; ++i) entries += text("f") + text("") + mode(kFileMode);
          answer(104, id + u32(10000) + entries);
          continue;
        } else if (how == "link") {
          answer(104, id + u32(1) + text("link") + text("") + mode(kLinkMode));
        } else if (how == "deep") {
          answer(104, id + u32(1) + text("d") + text("") + mode(kFolderMode));
        } else {
          answer(104, id + u32(1) + text(what) + text("") + mode(kFileMode));
        }
        listed = true;
        break;
      case 17:  // STAT
        if (how == "garbage") answer(105, "no packet");
        else answer(105, id + mode(how == "cut" ? kFileMode : kFolderMode));
        break;
      case 19:  // READLINK
        answer(104, id + u32(1) + text(what) + text("") + u32(0));
        break;
      default:
        answer(101, id + u32(0) + text("") + text(""));
    }
  }
}
