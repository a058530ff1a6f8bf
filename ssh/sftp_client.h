#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "byte_stream.h"
#include "vmtest/error.h"

namespace vmtest::ssh {

enum class FileKind { File, Folder, Link, Other };

/// What the guest says of a file.
struct GuestFile {
  FileKind kind = FileKind::Other;
  /// Permission bits, 07777 at most.
  unsigned mode = 0;
};

struct GuestEntry {
  /// As the guest names it: not to be trusted.
  std::string name;
  GuestFile file;
};

/// "No such file" of an SFTP server.
class NoSuchFile : public Error {
 public:
  using Error::Error;
};

/// A client of SFTP version 3 (draft-ietf-secsh-filexfer-02), with many requests on their way at once: libssh's own waits
/// for each. One thread may use it. Functions throw Error naming the path and the server's reason.
class SftpClient {
 public:
  /// Starts the server's SFTP subsystem; empty when it has none.
  [[nodiscard]] static std::unique_ptr<SftpClient> open(const std::shared_ptr<IoThread>& io, std::chrono::milliseconds idle);

  /// Follows links.
  [[nodiscard]] GuestFile stat(const std::string& path);
  [[nodiscard]] std::vector<GuestEntry> list(const std::string& path);
  [[nodiscard]] std::string read_link(const std::string& path);
  void make_folder(const std::string& path);
  void set_mode(const std::string& path, unsigned mode);
  /// Replaces what is there.
  void make_link(const std::string& target, const std::string& path);
  /// Hands the content to `take` in order.
  void read_file(const std::string& path, const std::function<void(std::string_view)>& take);
  /// Writes what `give` returns until it returns nothing. `give` gets the size wanted at most.
  void write_file(const std::string& path, unsigned mode, const std::function<std::string(std::size_t)>& give);

 private:
  class Packet;
  class Reader;
  struct Reply {
    std::uint8_t type = 0;
    std::uint32_t id = 0;
    std::string body;
  };
  struct Read {
    std::uint32_t id = 0;
    std::uint64_t offset = 0;
  };

  explicit SftpClient(std::unique_ptr<ByteStream> stream) : stream_(std::move(stream)) {}

  [[nodiscard]] bool greet();
  std::uint32_t request(std::uint8_t type, const std::function<void(Packet&)>& fill);
  [[nodiscard]] Reply receive();
  [[nodiscard]] Reply expect(std::uint32_t id);
  /// Throws unless the reply is a status that says all is well.
  void expect_ok(std::uint32_t id, std::string_view what);
  /// Throws what a status reply says.
  [[noreturn]] static void fail(const Reply& reply, std::string_view what);
  [[nodiscard]] std::string open_handle(std::uint8_t type, const std::string& path, std::uint32_t flags,
                                        std::optional<unsigned> mode);
  void close_handle(const std::string& handle, std::string_view what);

  std::unique_ptr<ByteStream> stream_;
  std::uint32_t last_id_ = 0;
  /// Largest read and write.
  std::uint32_t block_ = 32 * 1024;
};

}  // namespace vmtest::ssh
