#include "companions/companions.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "failure.h"
#include "variable.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using testing::failure_of;
using testing::Variable;
using Words = std::vector<std::string>;

class CompanionsTest : public ::testing::Test {
 protected:
  /// A program that says that when asked for its version.
  fs::path program_that_says(const std::string& version) const {
    const fs::path program = folder_.path() / "program";
    write_file(program, "#!/bin/sh\necho '" + version + "'\n", 0700);
    return program;
  }

  TemporaryDirectory folder_;
};

std::string refusal_of(const std::vector<SharedFolderConfig>& folders) {
  return failure_of([&] { validate(folders); });
}

TEST(VirtiofsdCommandTest, OfQemuGetsFolderAndSocketByDescriptor) {
  const Words expected = {"/usr/lib/qemu/virtiofsd", "-f", "--fd=3", "-o", "source=/proc/self/fd/4/,cache=none,sandbox=chroot"};
  EXPECT_EQ(virtiofsd_command({"/usr/lib/qemu/virtiofsd", Virtiofsd::Kind::Qemu}, {"/a,b", "t", true}, true), expected);
}

TEST(VirtiofsdCommandTest, OfTheSuccessorGetsThePath) {
  const Virtiofsd successor{"/usr/libexec/virtiofsd", Virtiofsd::Kind::Standalone};
  EXPECT_EQ(virtiofsd_command(successor, {"/a,b", "t", true}, true),
            (Words{"/usr/libexec/virtiofsd", "--fd=3", "--shared-dir=/a,b", "--cache=never", "--sandbox=chroot", "--readonly"}));
  EXPECT_EQ(virtiofsd_command(successor, {"/a", "t", false}, false),
            (Words{"/usr/libexec/virtiofsd", "--fd=3", "--shared-dir=/a", "--cache=never", "--sandbox=none"}));
}

TEST(SwtpmCommandTest, IsWhole) {
  const Words expected = {"/usr/bin/swtpm", "socket",           "--tpm2",     "--tpmstate", "dir=/vms/web/tpm,mode=0600",
                          "--ctrl",         "type=unixio,fd=3", "--terminate"};
  EXPECT_EQ(swtpm_command("/usr/bin/swtpm", "/vms/web/tpm"), expected);
}

TEST(SharedFolderTagsTest, AreNamesOfUpToThirtySixCharacters) {
  EXPECT_NO_THROW(validate({{"/a", std::string(36, 't')}, {"/b", "A-b_c.9"}}));
  EXPECT_NE(refusal_of({{"/a", std::string(37, 't')}}).find("1 to 36"), std::string::npos);
  EXPECT_NE(refusal_of({{"/a", ""}}).find("1 to 36"), std::string::npos);
  EXPECT_NE(refusal_of({{"/a", "a,chardev=x"}}).find("a,chardev=x"), std::string::npos);
}

TEST(SharedFolderTagsTest, AreOneOfAKind) {
  EXPECT_EQ(refusal_of({{"/a", "src"}, {"/b", "src"}}), "two shared folders have the tag \"src\"; give each its own");
}

TEST_F(CompanionsTest, VirtiofsdsAreToldApart) {
  const Variable program("VMTEST_VIRTIOFSD", program_that_says("virtiofsd 1.13.0"));
  EXPECT_EQ(find_virtiofsd().kind, Virtiofsd::Kind::Standalone);
}

TEST_F(CompanionsTest, ProgramThatIsNoVirtiofsdIsNamed) {
  const Variable program("VMTEST_VIRTIOFSD", program_that_says("hello"));
  const std::string why = failure_of([] { (void)find_virtiofsd(); });
  EXPECT_NE(why.find((folder_.path() / "program").string() + " is no virtiofsd"), std::string::npos) << why;
  EXPECT_EQ(shared_folder_support().kind, Support::Kind::NeedsHost);
}

TEST_F(CompanionsTest, MissingProgramsAreNamedWithTheirVariables) {
  const Variable virtiofsd("VMTEST_VIRTIOFSD", "/nonexistent/virtiofsd");
  const Variable swtpm("VMTEST_SWTPM", "/nonexistent/swtpm");
  EXPECT_EQ(shared_folder_support().why, "VMTEST_VIRTIOFSD=/nonexistent/virtiofsd is no program");
  EXPECT_EQ(tpm_support().why, "VMTEST_SWTPM=/nonexistent/swtpm is no program");
}

TEST_F(CompanionsTest, MissingSwtpmNamesItsPackage) {
  const Variable path("PATH", "/nonexistent");
  EXPECT_NE(tpm_support().why.find("apt-get install swtpm"), std::string::npos) << tpm_support().why;
}

TEST_F(CompanionsTest, FolderThatIsNotThereIsNamed) {
  if (const Support support = shared_folder_support(); !support.supported()) GTEST_SKIP() << support.why;
  MachineConfig machine;
  machine.shared_folders = {{"/nonexistent/folder", "src"}};
  const std::string why = failure_of([&] { (void)companions_of(machine, "/vms/web", "/run/x"); });
  EXPECT_EQ(why, "there is no folder /nonexistent/folder to share with the guest");
}

TEST_F(CompanionsTest, EachHasItsNameSocketAndState) {
  const Variable virtiofsd("VMTEST_VIRTIOFSD", program_that_says("virtiofsd 1.13.0"));
  const Variable swtpm("VMTEST_SWTPM", "/bin/true");
  MachineConfig machine;
  machine.shared_folders = {{folder_.path(), "src"}, {folder_.path(), "out"}};
  machine.tpm = true;
  const auto companions = companions_of(machine, "/vms/web", "/run/x");
  ASSERT_EQ(companions.size(), 3U);
  EXPECT_EQ(companions[1].name, "virtiofsd-out");
  EXPECT_EQ(companions[1].socket, "/run/x/fs1.sock");
  EXPECT_EQ(companions[2].name, "swtpm");
  EXPECT_EQ(companions[2].socket, "/run/x/tpm.sock");
  EXPECT_EQ(companions[2].state_dir, "/vms/web/tpm");
}

TEST_F(CompanionsTest, KeepMachinesFromBeingFrozen) {
  MachineConfig machine;
  EXPECT_FALSE(companion_obstacle(machine));
  machine.tpm = true;
  EXPECT_NE(companion_obstacle(machine).value_or("").find("TPM"), std::string::npos);
  machine.shared_folders = {{"/a", "src"}};
  EXPECT_NE(companion_obstacle(machine).value_or("").find("shared folder"), std::string::npos);
}

TEST_F(CompanionsTest, ReadOnlyViewTakesNoWrites) {
  if (::geteuid() != 0) GTEST_SKIP() << "a read-only view needs root";
  const FileDescriptor view = open_shared_folder(folder_.path(), true);
  const fs::path inside = "/proc/self/fd/" + std::to_string(view.get());
  write_file(folder_.path() / "word", "there");
  EXPECT_EQ(read_file(inside / "word"), "there");
  EXPECT_EQ(::open((inside / "new").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600), -1);
  EXPECT_EQ(errno, EROFS);
}

TEST_F(CompanionsTest, BothAnswerWhereTheyAreInstalled) {
  if (const Support support = shared_folder_support(); !support.supported()) GTEST_SKIP() << support.why;
  if (const Support support = tpm_support(); !support.supported()) GTEST_SKIP() << support.why;
  EXPECT_NE(try_virtiofsd().find("served a folder"), std::string::npos);
  EXPECT_NE(try_swtpm().find("answered"), std::string::npos);
}

TEST_F(CompanionsTest, TrialOfABrokenOneSaysItsWords) {
  write_file(folder_.path() / "broken", "#!/bin/sh\necho no TPM today >&2\nexit 3\n", 0700);
  const Variable swtpm("VMTEST_SWTPM", folder_.path() / "broken");
  const std::string why = failure_of([] { (void)try_swtpm(); });
  EXPECT_NE(why.find("exit code 3"), std::string::npos) << why;
  EXPECT_NE(why.find("no TPM today"), std::string::npos) << why;
}

}  // namespace
}  // namespace vmtest
