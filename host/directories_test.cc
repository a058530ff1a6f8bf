#include "vmtest/host/directories.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

unsigned mode_of(const fs::path& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 ? info.st_mode & 07777U : 0U;
}

/// The message of the error that `action` throws.
template <typename Action>
std::string message(Action action) {
  try {
    action();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

/// An environment variable that gets its value back.
class Variable {
 public:
  explicit Variable(const char* name) : name_(name) {
    if (const char* value = std::getenv(name)) before_ = value;
    ::unsetenv(name);
  }
  ~Variable() {
    if (before_) ::setenv(name_, before_->c_str(), 1);
    else ::unsetenv(name_);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  void set(const std::string& value) { ::setenv(name_, value.c_str(), 1); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

class DirectoriesTest : public ::testing::Test {
 protected:
  void SetUp() override { home_.set("/home/me"); }

  Variable home_{"HOME"};
  Variable vmtest_home_{"VMTEST_HOME"};
  Variable data_{"XDG_DATA_HOME"};
  Variable cache_{"XDG_CACHE_HOME"};
  Variable state_{"XDG_STATE_HOME"};
  Variable runtime_{"XDG_RUNTIME_DIR"};
  TemporaryDirectory folder_;
};

TEST_F(DirectoriesTest, StandBelowHomeByDefault) {
  EXPECT_EQ(data_dir(), "/home/me/.local/share/vmtest");
  EXPECT_EQ(cache_dir(), "/home/me/.cache/vmtest");
  EXPECT_EQ(state_dir(), "/home/me/.local/state/vmtest");
}

TEST_F(DirectoriesTest, FollowXdgVariables) {
  data_.set("/x/data");
  cache_.set("/x/cache");
  state_.set("/x/state");
  EXPECT_EQ(data_dir(), "/x/data/vmtest");
  EXPECT_EQ(cache_dir(), "/x/cache/vmtest");
  EXPECT_EQ(state_dir(), "/x/state/vmtest");
}

TEST_F(DirectoriesTest, IgnoreRelativeXdgVariables) {
  data_.set("x/data");
  EXPECT_EQ(data_dir(), "/home/me/.local/share/vmtest");
}

TEST_F(DirectoriesTest, IgnoreEmptyXdgVariables) {
  data_.set("");
  EXPECT_EQ(data_dir(), "/home/me/.local/share/vmtest");
}

TEST_F(DirectoriesTest, VmtestHomeMovesThemAll) {
  data_.set("/x/data");
  vmtest_home_.set("/elsewhere");
  EXPECT_EQ(data_dir(), "/elsewhere/data");
  EXPECT_EQ(cache_dir(), "/elsewhere/cache");
  EXPECT_EQ(state_dir(), "/elsewhere/state");
}

TEST_F(DirectoriesTest, RelativeVmtestHomeCountsFromTheWorkingFolder) {
  vmtest_home_.set("elsewhere");
  EXPECT_EQ(data_dir(), fs::current_path() / "elsewhere" / "data");
}

TEST_F(DirectoriesTest, NoHomeAtAllSaysWhatToSet) {
  home_.set("");
  EXPECT_NE(message([] { (void)data_dir(); }).find("set VMTEST_HOME to a folder of yours"), std::string::npos);
}

TEST_F(DirectoriesTest, RuntimeFolderFollowsXdg) {
  runtime_.set(folder_.path());
  EXPECT_EQ(runtime_dir(), folder_.path() / "vmtest");
  EXPECT_EQ(mode_of(folder_.path() / "vmtest"), 0700U);
}

TEST_F(DirectoriesTest, RuntimeFolderIsOfTheUserWithoutXdg) {
  EXPECT_EQ(runtime_dir(), "/tmp/vmtest-" + std::to_string(::getuid()));
}

TEST_F(DirectoriesTest, RuntimeFolderIsOfTheUserWhenXdgNamesNothing) {
  runtime_.set(folder_.path() / "missing");
  EXPECT_EQ(runtime_dir(), ledger_dir());
}

TEST_F(DirectoriesTest, RuntimeFolderIsShortAndItsOwnPerVmtestHome) {
  runtime_.set(folder_.path());
  vmtest_home_.set(folder_.path() / std::string(200, 'x'));
  const fs::path one = runtime_dir();
  vmtest_home_.set(folder_.path() / std::string(200, 'y'));
  const fs::path other = runtime_dir();
  fs::remove(one);
  fs::remove(other);
  EXPECT_EQ(one.parent_path(), ledger_dir());
  EXPECT_EQ(one.filename().string().size(), 8U);
  EXPECT_NE(one, other);
}

TEST_F(DirectoriesTest, NothingMovesTheLedger) {
  vmtest_home_.set("/elsewhere");
  runtime_.set(folder_.path());
  EXPECT_EQ(ledger_dir(), "/tmp/vmtest-" + std::to_string(::getuid()));
  EXPECT_EQ(mode_of(ledger_dir()), 0700U);
}

TEST_F(DirectoriesTest, PrivateFolderIsMadeWithItsParents) {
  ensure_private_dir(folder_.path() / "a" / "b");
  EXPECT_EQ(mode_of(folder_.path() / "a" / "b"), 0700U);
}

TEST_F(DirectoriesTest, PrivateFolderMayBeThereAlready) {
  ensure_private_dir(folder_.path() / "a");
  EXPECT_NO_THROW(ensure_private_dir(folder_.path() / "a"));
}

TEST_F(DirectoriesTest, PrivateFolderIsNoLink) {
  ensure_private_dir(folder_.path() / "real");
  fs::create_directory_symlink(folder_.path() / "real", folder_.path() / "link");
  EXPECT_NE(message([&] { ensure_private_dir(folder_.path() / "link"); }).find("is no folder; remove it"), std::string::npos);
}

TEST_F(DirectoriesTest, PrivateFolderIsNoFile) {
  write_file(folder_.path() / "file", "");
  EXPECT_NE(message([&] { ensure_private_dir(folder_.path() / "file"); }).find("is no folder; remove it"), std::string::npos);
}

TEST_F(DirectoriesTest, PrivateFolderIsClosedToOthers) {
  fs::create_directory(folder_.path() / "open");
  ASSERT_EQ(::chmod((folder_.path() / "open").c_str(), 0710), 0);
  EXPECT_NE(message([&] { ensure_private_dir(folder_.path() / "open"); }).find("its mode must be 0700"), std::string::npos);
}

TEST_F(DirectoriesTest, PrivateFolderBelongsToThisUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a folder away";
  ensure_private_dir(folder_.path() / "foreign");
  ASSERT_EQ(::chown((folder_.path() / "foreign").c_str(), 65534, 65534), 0);
  EXPECT_NE(message([&] { ensure_private_dir(folder_.path() / "foreign"); }).find("belongs to another user"), std::string::npos);
}

TEST(TemporaryDirectoryTest, IsPrivateAndGoesWithItsContent) {
  fs::path path;
  {
    const TemporaryDirectory folder("prefix-");
    path = folder.path();
    EXPECT_TRUE(path.filename().string().starts_with("prefix-"));
    EXPECT_EQ(mode_of(path), 0700U);
    fs::create_directory(path / "sub");
    write_file(path / "sub" / "file", "content");
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(TemporaryDirectoryTest, ReleasedStays) {
  TemporaryDirectory folder;
  const fs::path path = folder.release();
  folder = TemporaryDirectory();
  EXPECT_TRUE(fs::exists(path));
  fs::remove(path);
}

TEST(TemporaryDirectoryTest, MovedFromRemovesNothing) {
  auto first = std::make_unique<TemporaryDirectory>();
  const TemporaryDirectory second = std::move(*first);
  first.reset();
  EXPECT_TRUE(fs::exists(second.path()));
}

TEST(TemporaryDirectoryTest, MissingParentIsNamed) {
  try {
    const TemporaryDirectory folder("x", "/no/such/parent");
    FAIL() << "was made";
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find("/no/such/parent"), std::string::npos);
  }
}

}  // namespace
}  // namespace vmtest
