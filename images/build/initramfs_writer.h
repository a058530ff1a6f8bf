#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

struct archive;

namespace vmtest {

/// Writes an initramfs: a cpio archive of the "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst), all
/// of it owned by root and without times, and not compressed, since an emulated guest pays more for unpacking than for
/// reading. Parents come before their children. Every call throws Error when it cannot write.
class InitramfsWriter {
 public:
  explicit InitramfsWriter(const std::filesystem::path& path);
  ~InitramfsWriter();

  void folder(const std::string& path);
  void device(const std::string& path, unsigned major, unsigned minor);
  void file(const std::string& path, std::string_view content, unsigned mode);
  /// To be called last: without it the archive is not complete.
  void finish();

 private:
  void check(int result) const;
  void add(const std::string& path, unsigned mode, std::string_view content, std::uint64_t device);

  struct Closer {
    void operator()(archive* writer) const;
  };
  std::unique_ptr<archive, Closer> writer_;
  std::int64_t inode_ = 0;
};

}  // namespace vmtest
