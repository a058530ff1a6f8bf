#include "vmtest/clone.h"

#include <fcntl.h>

#include "reflink.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

void make_overlay(const CloneRequest& request, const Deadline& deadline) {
  if (!find_program("qemu-img")) throw Unsupported("qemu-img is not installed; get it with: apt-get install qemu-utils");
  std::vector<std::string> argv = {"qemu-img",
                                   "create",
                                   "-q",
                                   "-f",
                                   "qcow2",
                                   "-F",
                                   std::string(to_string(request.source_format)),
                                   "-b",
                                   fs::absolute(request.source).string(),
                                   request.target.string()};
  if (request.size_mib) argv.push_back(std::to_string(*request.size_mib) + "M");
  run_tool(argv, deadline);
}

bool shares_blocks(const CloneRequest& request) {
  try {
    reflink(request.source, request.target);
    return true;
  } catch (const Unsupported&) {
    return false;
  }
}

void make_raw_copy(const CloneRequest& request, const Deadline& deadline) {
  if (request.source_format != DiskFormat::Raw || !shares_blocks(request)) {
    if (!find_program("qemu-img")) throw Unsupported("qemu-img is not installed; get it with: apt-get install qemu-utils");
    run_tool({"qemu-img", "convert", "-q", "-f", std::string(to_string(request.source_format)), "-O", "raw",
              fs::absolute(request.source).string(), request.target.string()},
             deadline);
  }
  fs::permissions(request.target, fs::perms::owner_read | fs::perms::owner_write);
  if (!request.size_mib) return;
  constexpr std::uintmax_t kMib = 1U << 20;
  if (*request.size_mib * kMib < fs::file_size(request.target))
    throw Error("a disk of " + std::to_string(*request.size_mib) + " MiB is smaller than the original");
  fs::resize_file(request.target, *request.size_mib * kMib);
}

}  // namespace

DiskFormat clone_disk(const CloneRequest& request, const Deadline& deadline) {
  if (!fs::exists(request.source)) throw Error("cannot clone " + request.source.string() + ": there is no such file");
  if (fs::exists(request.target)) throw Error("cannot clone to " + request.target.string() + ": it exists already");
  try {
    if (request.method == CloneMethod::Overlay) {
      make_overlay(request, deadline);
      return DiskFormat::Qcow2;
    }
    make_raw_copy(request, deadline);
    return DiskFormat::Raw;
  } catch (...) {
    std::error_code ignored;
    fs::remove(request.target, ignored);
    rethrow_with_context("cannot clone " + request.source.string() + " to " + request.target.string());
  }
}

bool reflink_works(const fs::path& folder) {
  try {
    const TemporaryDirectory place(".vmtest-reflink-", folder);
    write_file(place.path() / "a", std::string(8192, 'x'));
    reflink(place.path() / "a", place.path() / "b");
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace vmtest
