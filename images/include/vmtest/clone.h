#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "vmtest/deadline.h"
#include "vmtest/types.h"

namespace vmtest {

/// Ways to make a disk that starts as a copy of another and takes space only for what is written to it.
enum class CloneMethod {
  /// A qcow2 file whose backing file is the original.
  Overlay,
  /// A raw copy, sparse where the original is: for hypervisors that take nothing else. Takes the space of the original's data,
  /// unless that is raw too and the file system shares its blocks (reflinks of XFS and btrfs).
  RawCopy,
};

struct CloneRequest {
  std::filesystem::path source = {};
  DiskFormat source_format = DiskFormat::Qcow2;
  std::filesystem::path target = {};
  CloneMethod method = CloneMethod::Overlay;
  /// Size of the new disk as the guest sees it, in MiB; the source's when empty. Never smaller than that.
  std::optional<std::uint64_t> size_mib = {};
};

/// Makes the clone and returns its format. Throws Error (no room, source missing), Unsupported (qemu-img is not installed) or
/// Timeout; the target is not there then. An existing target is never overwritten.
DiskFormat clone_disk(const CloneRequest& request, const Deadline& deadline);

/// Whether files in `folder` can be cloned by reflink.
[[nodiscard]] bool reflink_works(const std::filesystem::path& folder);

}  // namespace vmtest
