#pragma once

#include <optional>
#include <string>
#include <vector>

namespace vmtest::guest {

/// Reads files from the root folder of an ISO 9660 image (ECMA-119, with Rock Ridge or Joliet names) on a block device or
/// in a file, without the kernel's isofs: loading that module costs more than all a seed's reading. The descriptor is
/// borrowed and must stay open.
class IsoReader {
 public:
  /// The reader, or empty when there is no ISO 9660 file system on it.
  [[nodiscard]] static std::optional<IsoReader> open(int fd);

  /// Volume label without the padding.
  [[nodiscard]] const std::string& label() const { return label_; }
  /// The content of a file in the root folder, or empty when there is none of that name. Throws std::runtime_error when the
  /// image is broken.
  [[nodiscard]] std::optional<std::string> find(const std::string& name) const;

 private:
  struct Entry {
    std::string name;
    unsigned block = 0;
    unsigned size = 0;
  };

  int fd_ = -1;
  std::string label_;
  std::vector<Entry> entries_;
};

}  // namespace vmtest::guest
