#include "host_tree.h"

#include <gtest/gtest.h>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"

namespace vmtest::ssh {
namespace {

namespace fs = std::filesystem;

TEST(TreePathTest, SplitsPlainNames) { EXPECT_EQ(split_guest_path("./a//b/./c/"), (TreePath{"a", "b", "c"})); }

TEST(TreePathTest, RefusesAbsolutePaths) { EXPECT_THROW((void)split_guest_path("/etc/passwd"), Error); }

TEST(TreePathTest, RefusesParents) { EXPECT_THROW((void)split_guest_path("a/../../x"), Error); }

TEST(TreePathTest, RefusesNamesWithSlashes) { EXPECT_THROW(require_plain_name("../../x"), Error); }

TEST(TreePathTest, RefusesNamesWithNulBytes) { EXPECT_THROW(require_plain_name(std::string_view("a\0b", 3)), Error); }

TEST(TreePathTest, RefusesNamesOfFolders) {
  EXPECT_THROW(require_plain_name(".."), Error);
  EXPECT_THROW(require_plain_name("."), Error);
  EXPECT_THROW(require_plain_name(""), Error);
}

TEST(LinkTest, MayLeadUpWithinTheCopy) { EXPECT_NO_THROW(require_link_inside({"a", "b", "link"}, "../../c/d")); }

TEST(LinkTest, MayNotLeadAboveTheTop) { EXPECT_THROW(require_link_inside({"a", "link"}, "../../x"), Error); }

TEST(LinkTest, MayNotBeAbsolute) { EXPECT_THROW(require_link_inside({"link"}, "/etc"), Error); }

TEST(LinkTest, MayNotLeadUpBehindANameThatCouldBeALink) {
  EXPECT_THROW(require_link_inside({"a", "b", "link"}, "c/../../../x"), Error);
}

class HostTreeTest : public testing::Test {
 protected:
  TemporaryDirectory folder_;
  fs::path target_ = folder_.path() / "copy";
};

TEST_F(HostTreeTest, AppearsOnlyWhenComplete) {
  HostTree tree(target_);
  tree.add_folder({}, 0755);
  EXPECT_FALSE(fs::exists(target_));
  tree.commit();
  EXPECT_TRUE(fs::is_directory(target_));
}

TEST_F(HostTreeTest, LeavesNothingOfAnIncompleteCopy) {
  {
    HostTree tree(target_);
    tree.add_folder({}, 0755);
    (void)tree.add_file({"a"});
  }
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(HostTreeTest, FillsReadOnlyFolders) {
  HostTree tree(target_);
  tree.add_folder({}, 0555);
  tree.add_folder({"in"}, 0500);
  HostTree::finish_file(tree.add_file({"in", "file"}), 04755);
  tree.commit();
  EXPECT_EQ(fs::status(target_ / "in").permissions(), fs::perms(0500));
  EXPECT_EQ(fs::status(target_ / "in/file").permissions(), fs::perms(0755));
}

TEST_F(HostTreeTest, NeverWritesThroughALink) {
  HostTree tree(target_);
  tree.add_folder({}, 0755);
  tree.add_folder({"real"}, 0755);
  tree.add_link({"link"}, "real");
  EXPECT_ANY_THROW((void)tree.add_file({"link", "file"}));
}

TEST_F(HostTreeTest, TakesNoNameTwice) {
  HostTree tree(target_);
  tree.add_folder({}, 0755);
  tree.add_link({"name"}, "else");
  EXPECT_ANY_THROW((void)tree.add_file({"name"}));
}

TEST_F(HostTreeTest, DoesNotReplaceAFilledFolder) {
  fs::create_directories(target_ / "precious");
  HostTree tree(target_);
  tree.add_folder({}, 0755);
  EXPECT_ANY_THROW(tree.commit());
  EXPECT_TRUE(fs::exists(target_ / "precious"));
}

}  // namespace
}  // namespace vmtest::ssh
