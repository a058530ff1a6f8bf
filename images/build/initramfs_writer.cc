#include "build/initramfs_writer.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/sysmacros.h>

#include "vmtest/error.h"

namespace vmtest {

void InitramfsWriter::Closer::operator()(archive* writer) const { archive_write_free(writer); }

InitramfsWriter::InitramfsWriter(const std::filesystem::path& path) : writer_(archive_write_new()) {
  archive_write_set_format_cpio_newc(writer_.get());
  archive_write_add_filter_none(writer_.get());
  check(archive_write_open_filename(writer_.get(), path.c_str()));
}

InitramfsWriter::~InitramfsWriter() = default;

void InitramfsWriter::folder(const std::string& path) { add(path, AE_IFDIR | 0755, "", 0); }

void InitramfsWriter::device(const std::string& path, unsigned major, unsigned minor) {
  add(path, AE_IFCHR | 0600, "", makedev(major, minor));
}

void InitramfsWriter::file(const std::string& path, std::string_view content, unsigned mode) {
  add(path, AE_IFREG | mode, content, 0);
}

void InitramfsWriter::finish() { check(archive_write_close(writer_.get())); }

void InitramfsWriter::check(int result) const {
  if (result != ARCHIVE_OK) {
    throw Error(std::string("cannot write the initramfs: ") + archive_error_string(writer_.get()));
  }
}

void InitramfsWriter::add(const std::string& path, unsigned mode, std::string_view content, std::uint64_t device) {
  const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(), archive_entry_free);
  archive_entry_set_pathname(entry.get(), path.c_str());
  archive_entry_set_mode(entry.get(), mode);
  archive_entry_set_nlink(entry.get(), 1);
  archive_entry_set_ino(entry.get(), ++inode_);
  archive_entry_set_mtime(entry.get(), 0, 0);
  archive_entry_set_rdev(entry.get(), device);
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(content.size()));
  check(archive_write_header(writer_.get(), entry.get()));
  if (archive_write_data(writer_.get(), content.data(), content.size()) != static_cast<la_ssize_t>(content.size())) {
    throw Error("cannot write " + path + " to the initramfs");
  }
}

}  // namespace vmtest
