// Copies by SFTP (OpenSSH) and by commands (dropbear, which has no SFTP here).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "testing/peer_test.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::ssh {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string random_bytes(std::size_t size) {
  std::string data(size, '\0');
  std::mt19937_64 generator(4711);
  std::generate(data.begin(), data.end(), [&] { return static_cast<char>(generator()); });
  return data;
}

class CopyTest : public EachServerTest {};
INSTANTIATE_TEST_SUITE_P(On, CopyTest, testing::Values(PeerKind::OpenSsh, PeerKind::Dropbear), peer_name);

TEST_P(CopyTest, FilesGoBothWaysWithTheirModes) {
  const std::string content = random_bytes(5'000'001);
  write_file(host("there"), content, 0751);
  session().push(host("there"), guest("it's there"));
  session().pull(guest("it's there"), host("back"));
  EXPECT_EQ(read_file(host("back")), content);
  EXPECT_EQ(fs::status(host("back")).permissions(), fs::perms(0751));
}

TEST_P(CopyTest, EmptyFilesGoBothWays) {
  write_file(host("empty"), "");
  session().push(host("empty"), guest("empty"));
  session().pull(guest("empty"), host("back"));
  EXPECT_EQ(fs::file_size(host("back")), 0U);
}

TEST_P(CopyTest, FilesOfExactlyOneBlockGoBothWays) {
  const std::string content = random_bytes(128 * 1024);
  write_file(host("block"), content);
  session().push(host("block"), guest("block"));
  session().pull(guest("block"), host("back"));
  EXPECT_EQ(read_file(host("back")), content);
}

TEST_P(CopyTest, PathsAreRelativeToTheHome) {
  write_file(host("file"), "x");
  session().push(host("file"), "-name");
  EXPECT_EQ(session().exec("cat ./-name").out, "x");
}

TEST_P(CopyTest, FoldersGoBothWays) {
  fs::create_directories(host("tree/deep/empty"));
  write_file(host("tree/run.sh"), "#!/bin/sh\necho ran\n", 0755);
  write_file(host("tree/deep/a b\n'c'"), "text", 0600);
  write_file(host("tree") / std::string(180, 'n'), "long name");
  fs::create_symlink("deep", host("tree/link"));
  fs::permissions(host("tree/deep"), fs::perms(0510));
  session().push(host("tree"), guest("tree"));
  EXPECT_EQ(session().exec(GuestCommand(std::vector<std::string>{guest("tree/run.sh"), ""})).out, "ran\n");
  session().pull(guest("tree"), host("again"));
  EXPECT_EQ(read_file(host("again/deep/a b\n'c'")), "text");
  EXPECT_EQ(read_file(host("again") / std::string(180, 'n')), "long name");
  EXPECT_TRUE(fs::is_directory(host("again/deep/empty")));
  EXPECT_EQ(fs::read_symlink(host("again/link")), "deep");
  EXPECT_EQ(fs::status(host("again/deep")).permissions(), fs::perms(0510));
  EXPECT_EQ(fs::status(host("again/run.sh")).permissions(), fs::perms(0755));
}

TEST_P(CopyTest, PushOverAFolderReplacesItsFiles) {
  fs::create_directories(host("tree"));
  write_file(host("tree/a"), "new");
  (void)session().exec("mkdir tree; echo old and longer > tree/a; echo kept > tree/b");
  session().push(host("tree"), guest("tree"));
  EXPECT_EQ(session().exec("cat tree/a tree/b").out, "newkept\n");
}

TEST_P(CopyTest, HardLinksArriveAsFiles) {
  (void)session().exec("mkdir tree; echo same > tree/a; ln tree/a tree/b");
  session().pull(guest("tree"), host("tree"));
  EXPECT_EQ(read_file(host("tree/a")), "same\n");
  EXPECT_EQ(read_file(host("tree/b")), "same\n");
}

TEST_P(CopyTest, SocketsAndPipesAreLeftOut) {
  (void)session().exec("mkdir tree; mkfifo tree/pipe; echo x > tree/file");
  session().pull(guest("tree"), host("tree"));
  EXPECT_EQ(read_file(host("tree/file")), "x\n");
  EXPECT_FALSE(fs::exists(host("tree/pipe")));
}

TEST_P(CopyTest, TopLinkIsFollowed) {
  (void)session().exec("echo real > real; ln -s real top");
  session().pull(guest("top"), host("top"));
  EXPECT_FALSE(fs::is_symlink(host("top")));
  EXPECT_EQ(read_file(host("top")), "real\n");
}

TEST_P(CopyTest, LinkThatLeadsOutThrowsAndLeavesNothing) {
  (void)session().exec("mkdir tree; echo x > tree/a; ln -s /etc tree/b");
  EXPECT_THAT(thrown<Error>([&] { session().pull(guest("tree"), host("tree")); }), HasSubstr("\"/etc\""));
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_P(CopyTest, PullOfNothingSaysSoAndLeavesNothing) {
  EXPECT_THAT(thrown<Error>([&] { session().pull("/no/such/file", host("x")); }), HasSubstr("No such file"));
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_P(CopyTest, PushToNowhereSaysWhy) {
  write_file(host("file"), random_bytes(10'000'000));
  EXPECT_THAT(thrown<Error>([&] { session().push(host("file"), "/no/such/folder/file"); }), HasSubstr("/no/such/folder/file"));
}

TEST_P(CopyTest, PushOfNothingSaysWhy) {
  EXPECT_THAT(thrown<Error>([&] { session().push(host("missing"), guest("x")); }), HasSubstr("missing"));
}

TEST_P(CopyTest, PullDoesNotReplaceAFilledFolder) {
  (void)session().exec("mkdir tree");
  fs::create_directories(host("tree/precious"));
  EXPECT_THROW(session().pull(guest("tree"), host("tree")), Error);
  EXPECT_TRUE(fs::exists(host("tree/precious")));
}

class HostileSftpTest : public OpenSshTest {
 protected:
  void serve(const std::string& how) {
    start(PeerKind::OpenSsh, {.sftp_program = VMTEST_HOSTILE_SFTP_SERVER, .sftp_arguments = how});
  }
  [[nodiscard]] std::string pull() {
    return thrown<Error>([&] { session().pull("served", host("in/copy")); });
  }
  void SetUp() override {
    OpenSshTest::SetUp();
    fs::create_directory(host("in"));
  }
};

TEST_F(HostileSftpTest, NameThatLeadsOutThrowsAndWritesNothing) {
  serve("name ../../x");
  EXPECT_THAT(pull(), HasSubstr("\"../../x\""));
  EXPECT_TRUE(fs::is_empty(host("in")));
  EXPECT_FALSE(fs::exists(host("x")));
}

TEST_F(HostileSftpTest, AbsoluteNameThrows) {
  serve("name /tmp/x");
  EXPECT_THAT(pull(), HasSubstr("could lead out"));
}

TEST_F(HostileSftpTest, NameWithSlashThrows) {
  serve("name a/b");
  EXPECT_THAT(pull(), HasSubstr("could lead out"));
}

TEST_F(HostileSftpTest, LinkThatLeadsOutThrows) {
  serve("link ../outside");
  EXPECT_THAT(pull(), HasSubstr("outside the folder"));
  EXPECT_TRUE(fs::is_empty(host("in")));
}

TEST_F(HostileSftpTest, EndlessFoldersThrow) {
  serve("deep");
  EXPECT_THAT(pull(), HasSubstr("levels"));
  EXPECT_TRUE(fs::is_empty(host("in")));
}

TEST_F(HostileSftpTest, EndlessListingThrows) {
  serve("endless");
  EXPECT_THAT(pull(), HasSubstr("lists more than"));
  EXPECT_TRUE(fs::is_empty(host("in")));
}

TEST_F(HostileSftpTest, ServerThatEndsInTheMiddleThrowsAndLeavesNothing) {
  serve("cut");
  EXPECT_THAT(pull(), HasSubstr("ended the stream"));
  EXPECT_TRUE(fs::is_empty(host("in")));
}

TEST_F(HostileSftpTest, AnswersThatAreNoneThrow) {
  serve("garbage");
  EXPECT_FALSE(pull().empty());
  EXPECT_EQ(session().exec("echo still here").out, "still here\n");
}

/// A guest without SFTP whose tar is not to be trusted.
class HostileTarTest : public OpenSshTest {
 protected:
  /// The guest's tar is what a tar of `tree` with `transform` (of GNU tar) gives.
  void serve(const std::vector<std::string>& tar_options) {
    std::vector<std::string> tar = {"tar", "-cf", host("evil.tar"), "-C", host("tree"), "-P"};
    tar.insert(tar.end(), tar_options.begin(), tar_options.end());
    (void)run_tool(tar, Deadline::after(std::chrono::seconds(10)));
    start(PeerKind::OpenSsh, {.has_sftp = false, .login_shell = "/bin/sh"});
    peer().write_guest_file("evil.tar", read_file(host("evil.tar")));
    (void)session().exec("mkdir bin served; printf '#!/bin/sh\\ncat ~/evil.tar\\n' > bin/tar; chmod 755 bin/tar");
    peer_->restart_with({"SetEnv PATH=" + guest("bin") + ":/usr/bin:/bin"});
    session().reset();
  }
  void SetUp() override {
    OpenSshTest::SetUp();
    fs::create_directories(host("tree"));
    fs::create_directory(host("in"));
    write_file(host("tree/file"), "evil");
  }
  [[nodiscard]] std::string pull() {
    return thrown<Error>([&] { session().pull("served", host("in/copy")); });
  }
};

TEST_F(HostileTarTest, NameThatLeadsOutThrowsAndWritesNothing) {
  serve({"--transform=s,file,../../x,", "file"});
  EXPECT_THAT(pull(), HasSubstr("\"..\""));
  EXPECT_TRUE(fs::is_empty(host("in")));
  EXPECT_FALSE(fs::exists(host("x")));
}

TEST_F(HostileTarTest, AbsoluteNameThrows) {
  serve({"--transform=s,file,/tmp/x,", "file"});
  EXPECT_THAT(pull(), HasSubstr("\"/tmp/x\""));
}

TEST_F(HostileTarTest, FileBehindALinkThrows) {
  fs::create_symlink("..", host("tree/a"));
  serve({"--transform=s,^file,a/x,", "a", "file"});
  EXPECT_FALSE(pull().empty());
  EXPECT_FALSE(fs::exists(host("in/x")));
}

}  // namespace
}  // namespace vmtest::ssh
