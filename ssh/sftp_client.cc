#include "sftp_client.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "sftp_packet.h"
#include "vmtest/host/text.h"

namespace vmtest::ssh {
namespace {

// draft-ietf-secsh-filexfer-02, section 3.
enum PacketType : std::uint8_t {
  kInit = 1,
  kVersion = 2,
  kOpen = 3,
  kClose = 4,
  kRead = 5,
  kWrite = 6,
  kSetStat = 9,
  kOpenFolder = 11,
  kReadFolder = 12,
  kRemove = 13,
  kMakeFolder = 14,
  kStat = 17,
  kReadLink = 19,
  kMakeLink = 20,
  kStatus = 101,
  kHandle = 102,
  kData = 103,
  kName = 104,
  kAttributes = 105,
};
constexpr std::uint32_t kStatusOk = 0;
constexpr std::uint32_t kStatusEnd = 1;
constexpr std::uint32_t kStatusNoSuchFile = 2;
constexpr std::uint32_t kOpenRead = 1;
constexpr std::uint32_t kOpenWrite = 2;
constexpr std::uint32_t kOpenCreate = 8;
constexpr std::uint32_t kOpenTruncate = 16;

// A server that announces its limits is an OpenSSH of 8.5 or later, which takes up to 255 KiB at once.
constexpr std::uint32_t kLargeBlock = 128 * 1024;
// On their way at once, in bytes: more than any link of a VM holds.
constexpr std::size_t kInFlight = 4 * 1024 * 1024;
constexpr std::uint32_t kLargestPacket = 1024 * 1024;
// Of one folder, far more than a test has there: a server that lists for ever must not eat our memory.
constexpr std::size_t kMostEntries = 1'000'000;
constexpr std::size_t kMostNames = 64 * 1024 * 1024;

}  // namespace

std::unique_ptr<SftpClient> SftpClient::open(const std::shared_ptr<IoThread>& io, std::chrono::milliseconds idle) {
  auto stream = std::make_unique<ByteStream>(io, ChannelRequest{ChannelRequest::Kind::Subsystem, "sftp", 0}, idle);
  if (!stream->wait_open()) return nullptr;
  std::unique_ptr<SftpClient> client(new SftpClient(std::move(stream)));
  return client->greet() ? std::move(client) : nullptr;
}

bool SftpClient::greet() {
  Packet init(kInit);
  init.u32(3);
  // dropbear grants the subsystem whether or not there is a program behind it: then the stream just ends.
  if (!stream_->try_write(init.take())) return false;
  const std::string first = stream_->read();
  if (first.empty()) return false;
  stream_->unread(first);
  const Reply version = receive();
  Reader reader(version.body);
  if (version.type != kVersion) throw Error("the guest's SFTP server does not greet");
  while (!reader.empty()) {
    if (reader.text() == "limits@openssh.com") block_ = kLargeBlock;
    (void)reader.text();
  }
  return true;
}

std::uint32_t SftpClient::request(std::uint8_t type, const std::function<void(Packet&)>& fill) {
  Packet packet(type);
  packet.u32(++last_id_);
  fill(packet);
  stream_->write(packet.take());
  return last_id_;
}

SftpClient::Reply SftpClient::receive() {
  const std::string size_text = stream_->read_exactly(4);
  const std::uint32_t size = Reader(size_text).u32();
  if (size < 5 || size > kLargestPacket)
    throw Error("the guest's SFTP server sent a packet of " + std::to_string(size) + " bytes");
  std::string body = stream_->read_exactly(size);
  Reply reply;
  reply.type = static_cast<std::uint8_t>(body[0]);
  reply.id = Reader(std::string_view(body).substr(1)).u32();
  reply.body = body.substr(5);
  return reply;
}

SftpClient::Reply SftpClient::expect(std::uint32_t id) {
  Reply reply = receive();
  if (reply.id != id) throw Error("the guest's SFTP server answered what was not asked");
  return reply;
}

void SftpClient::fail(const Reply& reply, std::string_view what) {
  if (reply.type != kStatus) throw Error(std::string(what) + ": the guest's SFTP server sent an unexpected answer");
  Reader reader(reply.body);
  const std::uint32_t code = reader.u32();
  const std::string message = sanitize_console(reader.text());
  const std::string text = std::string(what) + ": " + (message.empty() ? "SFTP status " + std::to_string(code) : message);
  if (code == kStatusNoSuchFile) throw NoSuchFile(text);
  throw Error(text);
}

void SftpClient::expect_ok(std::uint32_t id, std::string_view what) {
  const Reply reply = expect(id);
  if (reply.type != kStatus || Reader(reply.body).u32() != kStatusOk) fail(reply, what);
}

std::string SftpClient::open_handle(std::uint8_t type, const std::string& path, std::uint32_t flags,
                                    std::optional<unsigned> mode) {
  const auto id = request(type, [&](Packet& packet) {
    packet.text(path);
    if (type == kOpenFolder) return;
    packet.u32(flags);
    packet.attributes(mode);
  });
  const Reply reply = expect(id);
  if (reply.type != kHandle) fail(reply, "guest " + path);
  return std::string(Reader(reply.body).text());
}

void SftpClient::close_handle(const std::string& handle, std::string_view what) {
  expect_ok(request(kClose, [&](Packet& packet) { packet.text(handle); }), what);
}

GuestFile SftpClient::stat(const std::string& path) {
  const Reply reply = expect(request(kStat, [&](Packet& packet) { packet.text(path); }));
  if (reply.type != kAttributes) fail(reply, "guest " + path);
  return Reader(reply.body).attributes();
}

std::vector<GuestEntry> SftpClient::list(const std::string& path) {
  const std::string what = "guest folder " + path;
  const std::string handle = open_handle(kOpenFolder, path, 0, {});
  std::vector<GuestEntry> entries;
  std::size_t listed = 0;
  std::size_t names = 0;
  while (true) {
    const Reply reply = expect(request(kReadFolder, [&](Packet& packet) { packet.text(handle); }));
    Reader reader(reply.body);
    if (reply.type == kStatus && reader.u32() == kStatusEnd) break;
    if (reply.type != kName) fail(reply, what);
    std::uint32_t count = reader.u32();
    if (count == 0) throw Error(what + ": the SFTP server answers without an entry and without an end");
    for (; count > 0; --count) {
      GuestEntry entry;
      entry.name = reader.text();
      names += entry.name.size();
      if (++listed > kMostEntries || names > kMostNames) {
        throw Error(what + ": the SFTP server lists more than " + std::to_string(kMostEntries) + " entries or " +
                    std::to_string(kMostNames >> 20) + " MiB of names; pull an archive of it instead");
      }
      (void)reader.text();
      entry.file = reader.attributes();
      if (entry.name != "." && entry.name != "..") entries.push_back(std::move(entry));
    }
  }
  close_handle(handle, what);
  return entries;
}

std::string SftpClient::read_link(const std::string& path) {
  const Reply reply = expect(request(kReadLink, [&](Packet& packet) { packet.text(path); }));
  if (reply.type != kName) fail(reply, "guest link " + path);
  Reader reader(reply.body);
  if (reader.u32() != 1) throw Error("guest link " + path + ": the SFTP server names more than one target");
  return std::string(reader.text());
}

void SftpClient::make_folder(const std::string& path) {
  const Reply reply = expect(request(kMakeFolder, [&](Packet& packet) {
    packet.text(path);
    packet.attributes(0700);
  }));
  if (reply.type == kStatus && Reader(reply.body).u32() == kStatusOk) return;
  // The protocol has no "exists".
  if (const auto there = expect(request(kStat, [&](Packet& packet) { packet.text(path); }));
      there.type == kAttributes && Reader(there.body).attributes().kind == FileKind::Folder) {
    return;
  }
  fail(reply, "cannot make the guest folder " + path);
}

void SftpClient::set_mode(const std::string& path, unsigned mode) {
  const auto id = request(kSetStat, [&](Packet& packet) {
    packet.text(path);
    packet.attributes(mode);
  });
  expect_ok(id, "cannot set the mode of the guest's " + path);
}

void SftpClient::make_link(const std::string& target, const std::string& path) {
  (void)expect(request(kRemove, [&](Packet& packet) { packet.text(path); }));
  const auto id = request(kMakeLink, [&](Packet& packet) {
    // Target first, as OpenSSH's server has it, and all who follow it; the draft says the reverse.
    packet.text(target);
    packet.text(path);
  });
  expect_ok(id, "cannot make the guest link " + path);
}

void SftpClient::read_file(const std::string& path, const std::function<void(std::string_view)>& take) {
  const std::string what = "guest file " + path;
  const std::string handle = open_handle(kOpen, path, kOpenRead, {});
  std::deque<Read> reads;
  const auto forget_reads = [&] {
    for (const Read& read : reads) (void)expect(read.id);
    reads.clear();
  };
  std::uint64_t next = 0;
  std::size_t in_flight = block_;  // a small file needs one block, a large one gets more and more at once
  while (true) {
    for (; reads.size() * std::size_t{block_} < in_flight; next += block_) {
      const auto id = request(kRead, [&](Packet& packet) {
        packet.text(handle);
        packet.u64(next);
        packet.u32(block_);
      });
      reads.push_back({id, next});
    }
    in_flight = std::min(kInFlight, in_flight * 2);
    const Read read = reads.front();
    reads.pop_front();
    const Reply reply = expect(read.id);
    Reader reader(reply.body);
    if (reply.type == kStatus && reader.u32() == kStatusEnd) break;
    if (reply.type != kData) fail(reply, what);
    const std::string_view data = reader.text();
    if (data.empty() || data.size() > block_) throw Error(what + ": the SFTP server sent another size than asked for");
    take(data);
    if (data.size() < block_) {
      // The file's end, or an answer that is short for another reason: go on right behind it.
      forget_reads();
      next = read.offset + data.size();
      in_flight = block_;
    }
  }
  forget_reads();
  close_handle(handle, what);
}

void SftpClient::write_file(const std::string& path, unsigned mode, const std::function<std::string(std::size_t)>& give) {
  const std::string what = "guest file " + path;
  const std::string handle = open_handle(kOpen, path, kOpenWrite | kOpenCreate | kOpenTruncate, 0600);
  std::deque<std::uint32_t> writes;
  std::uint64_t offset = 0;
  for (bool more = true; more || !writes.empty();) {
    while (more && writes.size() * std::size_t{block_} < kInFlight) {
      const std::string data = give(block_);
      more = !data.empty();
      if (!more) break;
      writes.push_back(request(kWrite, [&](Packet& packet) {
        packet.text(handle);
        packet.u64(offset);
        packet.text(data);
      }));
      offset += data.size();
    }
    if (writes.empty()) break;
    expect_ok(writes.front(), what);
    writes.pop_front();
  }
  close_handle(handle, what);
  set_mode(path, mode);
}

}  // namespace vmtest::ssh
