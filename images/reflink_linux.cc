#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>

#include "reflink.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {

void reflink(const std::filesystem::path& source, const std::filesystem::path& target) {
  const FileDescriptor from = open_file(source, O_RDONLY);
  const FileDescriptor to = open_file(target, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (::ioctl(to.get(), FICLONE, from.get()) == 0) return;
  const int error = errno;
  ::unlink(target.c_str());
  if (error == EOPNOTSUPP || error == EXDEV || error == ENOTTY || error == EINVAL) {
    throw Unsupported("the file system of " + target.parent_path().string() +
                      " cannot share blocks between files (reflink); use XFS or btrfs, or an overlay");
  }
  throw_errno(error, "cannot reflink " + source.string());
}

}  // namespace vmtest
