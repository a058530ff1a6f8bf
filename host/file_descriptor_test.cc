#include "vmtest/host/file_descriptor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <system_error>
#include <thread>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_lock.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
bool is_close_on_exec(int fd) { return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }
std::size_t files_in(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

class FileDescriptorTest : public ::testing::Test {
 protected:
  TemporaryDirectory folder_;
};

TEST_F(FileDescriptorTest, ClosesWhatItOwns) {
  int number = -1;
  {
    const FileDescriptor fd = open_file("/dev/null", O_RDONLY);
    number = fd.get();
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST_F(FileDescriptorTest, OwnsNothingByDefault) {
  EXPECT_FALSE(FileDescriptor().valid());
  EXPECT_FALSE(FileDescriptor());
}

TEST_F(FileDescriptorTest, MovePassesOwnership) {
  FileDescriptor first = open_file("/dev/null", O_RDONLY);
  const int number = first.get();
  const FileDescriptor second = std::move(first);
  EXPECT_EQ(second.get(), number);
  EXPECT_TRUE(is_open(number));
}

TEST_F(FileDescriptorTest, MoveAssignmentClosesTheOldOne) {
  FileDescriptor fd = open_file("/dev/null", O_RDONLY);
  const int old = fd.get();
  fd = open_file("/dev/null", O_RDONLY);
  EXPECT_FALSE(is_open(old));
  EXPECT_TRUE(is_open(fd.get()));
}

TEST_F(FileDescriptorTest, ReleaseGivesUpOwnership) {
  FileDescriptor fd = open_file("/dev/null", O_RDONLY);
  const int number = fd.release();
  fd.reset();
  EXPECT_TRUE(is_open(number));
  ::close(number);
}

TEST_F(FileDescriptorTest, DuplicateIsASecondOne) {
  FileDescriptor first = open_file("/dev/null", O_RDONLY);
  const FileDescriptor second = first.duplicate();
  first.reset();
  EXPECT_TRUE(is_open(second.get()));
  EXPECT_TRUE(is_close_on_exec(second.get()));
}

TEST_F(FileDescriptorTest, DuplicateOfNothingIsAnError) { EXPECT_THROW((void)FileDescriptor().duplicate(), std::system_error); }

TEST_F(FileDescriptorTest, OpenFileIsCloseOnExec) { EXPECT_TRUE(is_close_on_exec(open_file("/dev/null", O_RDONLY).get())); }

TEST_F(FileDescriptorTest, PipeIsCloseOnExec) {
  const Pipe pipe = make_pipe();
  EXPECT_TRUE(is_close_on_exec(pipe.read_end.get()));
  EXPECT_TRUE(is_close_on_exec(pipe.write_end.get()));
}

TEST_F(FileDescriptorTest, OpenFileNamesWhatIsMissing) {
  try {
    (void)open_file(folder_.path() / "missing", O_RDONLY);
    FAIL() << "was opened";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), std::errc::no_such_file_or_directory);
    EXPECT_NE(std::string(error.what()).find((folder_.path() / "missing").string()), std::string::npos);
  }
}

TEST_F(FileDescriptorTest, ReadFileGivesTheWholeContent) {
  const std::string content = std::string(300000, 'x') + '\0' + "end";
  write_file(folder_.path() / "file", content);
  EXPECT_EQ(read_file(folder_.path() / "file"), content);
}

TEST_F(FileDescriptorTest, ReadFileReadsFilesWithoutASize) { EXPECT_FALSE(read_file("/proc/self/stat").empty()); }

TEST_F(FileDescriptorTest, ReadFileTailGivesTheEnd) {
  write_file(folder_.path() / "file", "0123456789");
  EXPECT_EQ(read_file_tail(folder_.path() / "file", 3), "789");
  EXPECT_EQ(read_file_tail(folder_.path() / "file", 100), "0123456789");
}

TEST_F(FileDescriptorTest, ReadFileTailOfAMissingFileIsEmpty) { EXPECT_EQ(read_file_tail(folder_.path() / "missing", 3), ""); }

TEST_F(FileDescriptorTest, WriteFileReplacesTheOldContent) {
  write_file(folder_.path() / "file", "old and long");
  write_file(folder_.path() / "file", "new", 0644, Durability::Sync);
  EXPECT_EQ(read_file(folder_.path() / "file"), "new");
  EXPECT_EQ(files_in(folder_.path()), 1U);
}

TEST_F(FileDescriptorTest, WriteFileSetsTheMode) {
  write_file(folder_.path() / "file", "secret", 0600);
  struct stat info {};
  ASSERT_EQ(::stat((folder_.path() / "file").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777U, 0600U);
}

TEST_F(FileDescriptorTest, WriteFileMakesANewFile) {
  // Who has the old one open keeps seeing the old one, whole.
  write_file(folder_.path() / "file", "old");
  const FileDescriptor reader = open_file(folder_.path() / "file", O_RDONLY);
  write_file(folder_.path() / "file", "new");
  char buffer[8] = {};
  ASSERT_EQ(::read(reader.get(), buffer, sizeof buffer), 3);
  EXPECT_STREQ(buffer, "old");
}

TEST_F(FileDescriptorTest, WriteFileReplacesALinkNotItsTarget) {
  write_file(folder_.path() / "target", "old");
  fs::create_symlink(folder_.path() / "target", folder_.path() / "link");
  write_file(folder_.path() / "link", "new");
  EXPECT_EQ(read_file(folder_.path() / "target"), "old");
  EXPECT_FALSE(fs::is_symlink(folder_.path() / "link"));
}

TEST_F(FileDescriptorTest, WriteFileThatFailsLeavesNothing) {
  fs::create_directory(folder_.path() / "in-the-way");
  EXPECT_THROW(write_file(folder_.path() / "in-the-way", "x"), std::system_error);
  EXPECT_EQ(files_in(folder_.path()), 1U);
}

TEST_F(FileDescriptorTest, WriteFileOnAFullDiskIsAnError) {
  const FileDescriptor full = open_file("/dev/full", O_WRONLY);
  EXPECT_THROW(write_all(full.get(), "x"), std::system_error);
}

TEST_F(FileDescriptorTest, WriteAllGoesOnAfterShortWrites) {
  Pipe pipe = make_pipe();
  const std::string sent(1 << 20, 'x');
  std::string received;
  std::thread reader([&] {
    char buffer[10000];
    ssize_t count = 0;
    while ((count = ::read(pipe.read_end.get(), buffer, sizeof buffer)) > 0)
      received.append(buffer, static_cast<std::size_t>(count));
  });
  write_all(pipe.write_end.get(), sent);
  pipe.write_end.reset();
  reader.join();
  EXPECT_EQ(received, sent);
}

TEST_F(FileDescriptorTest, WaitReadableSeesData) {
  const Pipe pipe = make_pipe();
  write_all(pipe.write_end.get(), "x");
  EXPECT_TRUE(wait_readable(pipe.read_end.get(), Deadline::after(10s)));
}

TEST_F(FileDescriptorTest, WaitReadableSeesTheEnd) {
  Pipe pipe = make_pipe();
  pipe.write_end.reset();
  EXPECT_TRUE(wait_readable(pipe.read_end.get(), Deadline::after(10s)));
}

TEST_F(FileDescriptorTest, WaitReadableEndsAtItsDeadline) {
  const Pipe pipe = make_pipe();
  const Deadline deadline = Deadline::after(20ms);
  EXPECT_FALSE(wait_readable(pipe.read_end.get(), deadline));
  EXPECT_TRUE(deadline.expired());
}

TEST_F(FileDescriptorTest, NonblockingIsSetAndCleared) {
  const Pipe pipe = make_pipe();
  set_nonblocking(pipe.read_end.get());
  EXPECT_NE(::fcntl(pipe.read_end.get(), F_GETFL) & O_NONBLOCK, 0);
  set_nonblocking(pipe.read_end.get(), false);
  EXPECT_EQ(::fcntl(pipe.read_end.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(DeadlineTest, VeryLongOnesSaturate) {
  const Deadline deadline = Deadline::after(std::chrono::nanoseconds::max());
  EXPECT_FALSE(deadline.expired());
  EXPECT_EQ(deadline.poll_timeout(), 24 * 3600 * 1000);
}

TEST(DeadlineTest, PassedOnesHaveNoTimeLeft) {
  const Deadline deadline = Deadline::after(-1s);
  EXPECT_TRUE(deadline.expired());
  EXPECT_EQ(deadline.remaining(), 0ms);
  EXPECT_EQ(deadline.poll_timeout(), 0);
}

TEST(DeadlineTest, RemainingIsRoundedUp) {
  // Rounded down, the last part of a millisecond would be polled away with a time-out of zero.
  const Deadline deadline = Deadline::after(100us);
  EXPECT_TRUE(deadline.remaining() == 1ms || deadline.expired());
}

TEST(DeadlineTest, EarlierIsTheNearer) {
  const Deadline near = Deadline::after(1s);
  const Deadline far = Deadline::after(2s);
  EXPECT_EQ(near.earlier(far).time_point(), near.time_point());
  EXPECT_EQ(far.earlier(near).time_point(), near.time_point());
}

TEST(FileLockTest, IsExclusive) {
  const TemporaryDirectory folder;
  const auto first = FileLock::try_lock(folder.path() / "lock");
  ASSERT_TRUE(first);
  EXPECT_FALSE(FileLock::try_lock(folder.path() / "lock"));
}

TEST(FileLockTest, IsFreeAfterItsOwner) {
  const TemporaryDirectory folder;
  { const FileLock lock = FileLock::lock(folder.path() / "lock", Deadline::after(10s)); }
  EXPECT_TRUE(FileLock::try_lock(folder.path() / "lock"));
}

TEST(FileLockTest, WaitingEndsAtTheDeadline) {
  const TemporaryDirectory folder;
  const auto first = FileLock::try_lock(folder.path() / "lock");
  try {
    (void)FileLock::lock(folder.path() / "lock", Deadline::after(20ms));
    FAIL() << "was locked twice";
  } catch (const Timeout& error) {
    EXPECT_NE(std::string(error.what()).find((folder.path() / "lock").string()), std::string::npos);
  }
}

TEST(FileLockTest, WaitsForItsOwner) {
  const TemporaryDirectory folder;
  auto first = FileLock::try_lock(folder.path() / "lock");
  std::thread waiter([&] { EXPECT_NO_THROW((void)FileLock::lock(folder.path() / "lock", Deadline::after(10s))); });
  first.reset();
  waiter.join();
}

}  // namespace
}  // namespace vmtest
