#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "vmtest/machine_config.h"

namespace vmtest::propolis {

/// A body may have a mebibyte, and base64 makes three bytes four: what is longer is a file's path instead.
inline constexpr std::size_t kLongestBlob = 512 * 1024;
inline constexpr std::size_t kLongestBody = 1024 * 1024;
/// Disks are read and written in such blocks.
inline constexpr unsigned kBlockSize = 512;

/// What an instance is made of beside its machine.
struct InstanceParts {
  /// A UUID.
  std::string id;
  std::string name;
  /// The VNICs of the machine's cards, in their order.
  std::vector<std::string> vnics;
  /// Small disks that go into the body instead of their paths: their content by their id.
  std::map<std::string, std::string> blobs = {};
  /// A disk that the firmware starts the kernel from (see efi_disk.h); empty when the machine's first disk has a boot loader.
  std::filesystem::path boot_disk = {};
};

/// The body of PUT /instance for a machine, as text: a pure function. Throws Unsupported for what propolis-server has not, and
/// Error for a body that is too long.
[[nodiscard]] std::string instance_body(const MachineConfig& machine, const InstanceParts& parts);

}  // namespace vmtest::propolis
