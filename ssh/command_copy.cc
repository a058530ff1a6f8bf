#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "command_line.h"
#include "copy.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"

namespace vmtest::ssh {
namespace {

constexpr std::size_t kBlock = 256 * 1024;

struct ArchiveReadDeleter {
  void operator()(archive* reader) const { archive_read_free(reader); }
};
struct ArchiveWriteDeleter {
  void operator()(archive* writer) const { archive_write_free(writer); }
};
struct EntryDeleter {
  void operator()(archive_entry* entry) const { archive_entry_free(entry); }
};

/// The stream between libarchive, which is C and must see no exception, and the channel.
struct ArchiveStream {
  ByteStream& stream;
  std::string data = {};
  std::exception_ptr error = {};

  static la_ssize_t read(archive*, void* self, const void** buffer) {
    auto& source = *static_cast<ArchiveStream*>(self);
    try {
      source.data = source.stream.read();
      *buffer = source.data.data();
      return static_cast<la_ssize_t>(source.data.size());
    } catch (...) {
      source.error = std::current_exception();
      return ARCHIVE_FATAL;
    }
  }

  static la_ssize_t write(archive*, void* self, const void* buffer, std::size_t size) {
    auto& target = *static_cast<ArchiveStream*>(self);
    try {
      target.stream.write(std::string(static_cast<const char*>(buffer), size));
      return static_cast<la_ssize_t>(size);
    } catch (...) {
      target.error = std::current_exception();
      return ARCHIVE_FATAL;
    }
  }

  /// Throws what the channel threw, or what libarchive says, unless `result` is good.
  void check(archive* with, la_ssize_t result, const char* what) const {
    if (result >= ARCHIVE_WARN) return;
    if (error) std::rethrow_exception(error);
    const char* reason = archive_error_string(with);
    throw Error(std::string(what) + ": " + (reason != nullptr ? reason : "unknown reason"));
  }
};

/// Calls `take` with each block of a host file.
template <typename Take>
void read_blocks(const std::filesystem::path& path, Take take) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  while (true) {
    std::string data(kBlock, '\0');
    const ssize_t size = ::read(file.get(), data.data(), data.size());
    if (size < 0) throw_errno("cannot read " + path.string());
    if (size == 0) return;
    data.resize(static_cast<std::size_t>(size));
    take(std::move(data));
  }
}

std::string guest_word(const std::string& path) { return quote(path.starts_with('-') ? "./" + path : path); }

std::string octal(unsigned mode) {
  std::string text;
  for (int shift = 6; shift >= 0; shift -= 3) text += static_cast<char>('0' + ((mode >> shift) & 7));
  return text;
}

void add_to_archive(archive* writer, const ArchiveStream& stream, const std::filesystem::directory_entry& from,
                    const std::string& name, CopyCount& count) {
  const bool is_link = from.is_symlink();
  const bool is_folder = !is_link && from.is_directory();
  if (!is_link && !is_folder && !from.is_regular_file()) return;
  const std::unique_ptr<archive_entry, EntryDeleter> entry(archive_entry_new());
  archive_entry_set_pathname(entry.get(), name.c_str());
  archive_entry_set_filetype(entry.get(), is_link ? AE_IFLNK : is_folder ? AE_IFDIR : AE_IFREG);
  archive_entry_set_perm(entry.get(), static_cast<__LA_MODE_T>(is_link ? 0777 : permission_bits(from.path())));
  const std::uintmax_t size = is_link || is_folder ? 0 : from.file_size();
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(size));
  if (is_link) archive_entry_set_symlink(entry.get(), std::filesystem::read_symlink(from.path()).c_str());
  stream.check(writer, archive_write_header(writer, entry.get()), "tar");
  if (is_folder) {
    for (const auto& child : sorted_entries(from.path())) {
      add_to_archive(writer, stream, child, name + "/" + child.path().filename().string(), count);
    }
  }
  if (is_link || is_folder) return;
  std::uintmax_t written = 0;
  read_blocks(from.path(), [&](const std::string& data) {
    stream.check(writer, archive_write_data(writer, data.data(), data.size()), "tar");
    written += data.size();
  });
  if (written != size) throw Error(from.path().string() + " changed while it was copied");
  count.bytes += size;
  ++count.files;
}

}  // namespace

std::unique_ptr<ByteStream> CommandCopy::run(const std::string& line) {
  auto stream = std::make_unique<ByteStream>(io_, ChannelRequest{ChannelRequest::Kind::Exec, line, 0}, idle_);
  if (!stream->wait_open()) throw Error("the guest's SSH server runs no command");
  return stream;
}

void CommandCopy::finish(ByteStream& stream, const std::string& what) {
  const ByteStream::Ending ending = stream.wait_ending();
  if (ending.exit_code == 0) return;
  std::string reason = sanitize_console(last_lines(ending.error_output, 3));
  while (reason.ends_with('\n')) reason.pop_back();
  throw Error(what + ": " + (reason.empty() ? "the command in the guest failed" : reason));
}

void CommandCopy::push(const std::filesystem::path& from, const std::string& to, CopyCount& count) {
  if (std::filesystem::is_directory(from)) push_folder(from, to, count);
  else push_file(from, to, count);
}

void CommandCopy::push_file(const std::filesystem::path& from, const std::string& to, CopyCount& count) {
  const std::string target = guest_word(to);
  const auto stream = run("cat > " + target + " && chmod " + octal(permission_bits(from)) + " " + target);
  try {
    read_blocks(from, [&](std::string data) {
      count.bytes += data.size();
      stream->write(std::move(data));
    });
  } catch (const Error&) {
    finish(*stream, "guest file " + to);  // its own reason, when there is one
    throw;
  }
  stream->end_input();
  finish(*stream, "guest file " + to);
  ++count.files;
}

void CommandCopy::push_folder(const std::filesystem::path& from, const std::string& to, CopyCount& count) {
  const std::string target = guest_word(to);
  const auto stream = run("{ test -d " + target + " || mkdir " + target + "; } && cd " + target + " && exec tar -xopf -");
  ArchiveStream data{*stream};
  try {
    const std::unique_ptr<archive, ArchiveWriteDeleter> writer(archive_write_new());
    // The one format for long names that both GNU's and busybox' tar read.
    archive_write_set_format_gnutar(writer.get());
    archive_write_set_bytes_per_block(writer.get(), kBlock);
    archive_write_set_bytes_in_last_block(writer.get(), 1);
    data.check(writer.get(), archive_write_open(writer.get(), &data, nullptr, ArchiveStream::write, nullptr), "tar");
    add_to_archive(writer.get(), data, std::filesystem::directory_entry(from), ".", count);
    data.check(writer.get(), archive_write_close(writer.get()), "tar");
  } catch (const Timeout&) {
    throw;
  } catch (const Error&) {
    finish(*stream, "guest folder " + to);
    throw;
  }
  stream->end_input();
  finish(*stream, "guest folder " + to);
}

void CommandCopy::pull(const std::string& from, HostTree& to, CopyCount& count) {
  const std::string source = guest_word(from);
  const auto stream = run("if test -d " + source + "; then echo d; elif test -f " + source + "; then echo f; elif test -e " +
                          source + "; then echo o; else echo n; fi; stat -L -c %a " + source + " 2>/dev/null || echo 644");
  std::string answer;
  for (std::string piece; !(piece = stream->read()).empty() && answer.size() < 100;) answer += piece;
  const unsigned mode = answer.size() > 2 ? static_cast<unsigned>(std::strtoul(answer.c_str() + 2, nullptr, 8)) : 0;
  if (answer.starts_with("d\n")) pull_folder(from, mode, to, count);
  else if (answer.starts_with("f\n")) pull_file(from, mode, to, count);
  else if (answer.starts_with("o\n")) throw Error("it is neither a file nor a folder");
  else throw Error("guest " + from + ": No such file");
}

void CommandCopy::pull_file(const std::string& from, unsigned mode, HostTree& to, CopyCount& count) {
  const auto stream = run("exec cat " + guest_word(from));
  const FileDescriptor file = to.add_file({});
  for (std::string data; !(data = stream->read()).empty(); count.bytes += data.size()) write_all(file.get(), data);
  finish(*stream, "guest file " + from);
  HostTree::finish_file(file, mode);
  ++count.files;
}

void CommandCopy::pull_folder(const std::string& from, unsigned mode, HostTree& to, CopyCount& count) {
  const auto stream = run("cd " + guest_word(from) + " && exec tar -cf - .");
  to.add_folder({}, mode);
  ArchiveStream data{*stream};
  const std::unique_ptr<archive, ArchiveReadDeleter> reader(archive_read_new());
  archive_read_support_format_tar(reader.get());
  data.check(reader.get(), archive_read_open(reader.get(), &data, nullptr, ArchiveStream::read, nullptr), "tar of the guest");
  archive_entry* entry = nullptr;
  for (int result = 0; (result = archive_read_next_header(reader.get(), &entry)) != ARCHIVE_EOF;) {
    data.check(reader.get(), result, "tar of the guest");
    const char* name = archive_entry_pathname(entry);
    const TreePath place = split_guest_path(name != nullptr ? name : "");
    if (place.empty()) continue;  // the folder itself
    if (const char* original = archive_entry_hardlink(entry)) {
      to.add_same_file(place, split_guest_path(original));
    } else if (archive_entry_filetype(entry) == AE_IFDIR) {
      to.add_folder(place, static_cast<unsigned>(archive_entry_perm(entry)));
    } else if (archive_entry_filetype(entry) == AE_IFLNK) {
      to.add_link(place, archive_entry_symlink(entry));
    } else if (archive_entry_filetype(entry) == AE_IFREG) {
      const FileDescriptor file = to.add_file(place);
      std::string block(kBlock, '\0');
      for (la_ssize_t size = 0; (size = archive_read_data(reader.get(), block.data(), block.size())) != 0;
           count.bytes += static_cast<std::uint64_t>(size)) {
        data.check(reader.get(), size, "tar of the guest");
        write_all(file.get(), std::string_view(block).substr(0, static_cast<std::size_t>(size)));
      }
      HostTree::finish_file(file, static_cast<unsigned>(archive_entry_perm(entry)));
      ++count.files;
    }
  }
  while (!stream->read().empty()) {
  }
  finish(*stream, "guest folder " + from);
}

}  // namespace vmtest::ssh
