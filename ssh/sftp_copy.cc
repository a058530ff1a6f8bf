#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "copy.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::ssh {
namespace {

std::string child_path(const std::string& folder, const std::string& name) {
  return folder.ends_with('/') ? folder + name : folder + "/" + name;
}

void pull_file(SftpClient& sftp, const std::string& from, unsigned mode, HostTree& to, const TreePath& place, CopyCount& count) {
  const FileDescriptor file = to.add_file(place);
  sftp.read_file(from, [&](std::string_view data) {
    write_all(file.get(), data);
    count.bytes += data.size();
  });
  HostTree::finish_file(file, mode);
  ++count.files;
}

void pull_folder(SftpClient& sftp, const std::string& from, unsigned mode, HostTree& to, const TreePath& place,
                 CopyCount& count) {
  to.add_folder(place, mode);
  for (const GuestEntry& entry : sftp.list(from)) {
    require_plain_name(entry.name);
    const std::string path = child_path(from, entry.name);
    TreePath inner = place;
    inner.push_back(entry.name);
    switch (entry.file.kind) {
      case FileKind::Folder:
        pull_folder(sftp, path, entry.file.mode, to, inner, count);
        break;
      case FileKind::File:
        pull_file(sftp, path, entry.file.mode, to, inner, count);
        break;
      case FileKind::Link:
        to.add_link(inner, sftp.read_link(path));
        break;
      case FileKind::Other:
        break;
    }
  }
}

void push_file(SftpClient& sftp, const std::filesystem::path& from, const std::string& to, CopyCount& count) {
  const FileDescriptor file = open_file(from, O_RDONLY);
  sftp.write_file(to, permission_bits(from), [&](std::size_t size) {
    std::string data(size, '\0');
    std::size_t filled = 0;
    while (filled < size) {
      const ssize_t got = ::read(file.get(), data.data() + filled, size - filled);
      if (got < 0 && errno != EINTR) throw_errno("cannot read " + from.string());
      if (got == 0) break;
      filled += static_cast<std::size_t>(std::max<ssize_t>(got, 0));
    }
    data.resize(filled);
    count.bytes += filled;
    return data;
  });
  ++count.files;
}

void push_folder(SftpClient& sftp, const std::filesystem::path& from, const std::string& to, CopyCount& count) {
  sftp.make_folder(to);
  for (const auto& entry : sorted_entries(from)) {
    const std::string path = child_path(to, entry.path().filename().string());
    if (entry.is_symlink()) sftp.make_link(std::filesystem::read_symlink(entry.path()).string(), path);
    else if (entry.is_directory()) push_folder(sftp, entry.path(), path, count);
    else if (entry.is_regular_file()) push_file(sftp, entry.path(), path, count);
  }
  sftp.set_mode(to, permission_bits(from));
}

}  // namespace

unsigned permission_bits(const std::filesystem::path& path) {
  return static_cast<unsigned>(std::filesystem::status(path).permissions()) & 0777;
}

std::vector<std::filesystem::directory_entry> sorted_entries(const std::filesystem::path& folder) {
  std::vector<std::filesystem::directory_entry> entries(std::filesystem::directory_iterator(folder), {});
  std::sort(entries.begin(), entries.end());
  return entries;
}

void push_by_sftp(SftpClient& sftp, const std::filesystem::path& from, const std::string& to, CopyCount& count) {
  if (std::filesystem::is_directory(from)) push_folder(sftp, from, to, count);
  else push_file(sftp, from, to, count);
}

void pull_by_sftp(SftpClient& sftp, const std::string& from, HostTree& to, CopyCount& count) {
  const GuestFile top = sftp.stat(from);
  if (top.kind == FileKind::Folder) pull_folder(sftp, from, top.mode, to, {}, count);
  else if (top.kind == FileKind::File) pull_file(sftp, from, top.mode, to, {}, count);
  else throw Error("it is neither a file nor a folder");
}

}  // namespace vmtest::ssh
