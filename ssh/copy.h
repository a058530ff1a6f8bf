#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "host_tree.h"
#include "io_thread.h"
#include "sftp_client.h"

namespace vmtest::ssh {

/// What a copy did, for the log.
struct CopyCount {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
};

/// By SFTP.
void push_by_sftp(SftpClient& sftp, const std::filesystem::path& from, const std::string& to, CopyCount& count);
void pull_by_sftp(SftpClient& sftp, const std::string& from, HostTree& to, CopyCount& count);

/// By commands in the guest: cat for a file, tar for a folder.
class CommandCopy {
 public:
  CommandCopy(std::shared_ptr<IoThread> io, std::chrono::milliseconds idle) : io_(std::move(io)), idle_(idle) {}

  void push(const std::filesystem::path& from, const std::string& to, CopyCount& count);
  void pull(const std::string& from, HostTree& to, CopyCount& count);

 private:
  [[nodiscard]] std::unique_ptr<ByteStream> run(const std::string& line);
  /// Waits for the end of the command; throws Error with what it said unless it succeeded.
  static void finish(ByteStream& stream, const std::string& what);
  void push_file(const std::filesystem::path& from, const std::string& to, CopyCount& count);
  void push_folder(const std::filesystem::path& from, const std::string& to, CopyCount& count);
  void pull_file(const std::string& from, unsigned mode, HostTree& to, CopyCount& count);
  void pull_folder(const std::string& from, unsigned mode, HostTree& to, CopyCount& count);

  std::shared_ptr<IoThread> io_;
  std::chrono::milliseconds idle_;
};

/// The mode of a host file, without what a guest should not get from it.
[[nodiscard]] unsigned permission_bits(const std::filesystem::path& path);
/// The entries of a host folder in the order of their names.
[[nodiscard]] std::vector<std::filesystem::directory_entry> sorted_entries(const std::filesystem::path& folder);

}  // namespace vmtest::ssh
