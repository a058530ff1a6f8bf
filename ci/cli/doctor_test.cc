// `vmtest doctor` on hosts that lack something: one test takes it away, or puts something in its place that does not work.

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "cli_test.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/types.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class DoctorTest : public CliTest {
 protected:
  /// A folder with all programs of PATH, to take some away from. apt-get is one that does nothing: the real one takes a second.
  void SetUp() override {
    fs::create_directory(bin_);
    std::istringstream path(std::getenv("PATH"));
    std::error_code there_already;
    for (std::string folder; std::getline(path, folder, ':');) {
      for (const auto& program : fs::directory_iterator(folder, there_already))
        fs::create_symlink(program.path(), bin_ / program.path().filename(), there_already);
    }
    take_away("apt-get");
    write_file(bin_ / "apt-get", "#!/bin/sh\n", 0755);
  }
  void take_away(const std::string& program) { fs::remove(bin_ / program); }
  void break_program(const std::string& program) {
    take_away(program);
    write_file(bin_ / program, "#!/bin/sh\necho 'it is broken' >&2\nexit 1\n", 0755);
  }
  ToolResult doctor(std::map<std::string, std::string> environment = {}) {
    environment.insert({"PATH", bin_.string()});
    return vmtest({"doctor"}, std::move(environment));
  }
  /// What it says of one check, as JSON.
  json finding(const std::string& check, std::map<std::string, std::string> environment = {}) {
    environment.insert({"PATH", bin_.string()});
    const ToolResult result = vmtest({"doctor", "--json"}, std::move(environment));
    code_ = result.status.code;
    const json report = json::parse(result.out);
    EXPECT_EQ(report["usable"], code_ == 0) << report;
    for (const json& entry : report["checks"]) {
      if (entry["check"] == check) return entry;
    }
    return {};
  }

  fs::path bin_ = folder_.path() / "bin";
  /// Exit code of the last finding().
  int code_ = -1;
};

TEST_F(DoctorTest, WholeHostIsFitForVmsAndImages) {
  const json found = finding("image tools", {{"PATH", std::getenv("PATH")}});
  EXPECT_EQ(found["result"], "ok") << found;
  EXPECT_EQ(code_, 0);
}

TEST_F(DoctorTest, MissingProgramForImagesNamesThePackageAndIsNoFailure) {
  take_away("mmd");
  const json found = finding("image tools");
  EXPECT_EQ(found["result"], "limited") << found;
  EXPECT_EQ(found["detail"], "images cannot be built: not installed: mmd");
  EXPECT_EQ(found["mend"], "apt-get install mtools");
  EXPECT_EQ(code_, 0);
}

TEST_F(DoctorTest, BrokenProgramForImagesIsSeenByTryingIt) {
  break_program("mcopy");
  break_program("sfdisk");
  const json found = finding("image tools");
  EXPECT_EQ(found["result"], "limited") << found;
  EXPECT_TRUE(contains(found["detail"], "it is broken")) << found;
  EXPECT_EQ(found["mend"], "apt-get install --reinstall fdisk; apt-get install --reinstall mtools");
}

TEST_F(DoctorTest, HostWithoutQemuImgCannotRunVms) {
  take_away("qemu-img");
  const ToolResult result = doctor();
  EXPECT_EQ(result.status.code, 1);
  EXPECT_TRUE(contains(result.out, "bad      disk clones")) << result.out;
  EXPECT_TRUE(contains(result.out, "-> apt-get install qemu-utils")) << result.out;
  EXPECT_TRUE(contains(result.out, "VMs cannot be run here")) << result.out;
}

TEST_F(DoctorTest, BrokenQemuIsSeenByTryingIt) {
  break_program(host_architecture() == Architecture::X86_64 ? "qemu-system-x86_64" : "qemu-system-aarch64");
  const json found = finding("QEMU");
  EXPECT_EQ(found["result"], "bad");
  EXPECT_TRUE(contains(found["detail"], "it is broken")) << found;
  EXPECT_EQ(code_, 1);
}

TEST_F(DoctorTest, FolderThatCannotBeWrittenToNamesItsVariable) {
  fs::create_directories(home_);
  write_file(home_ / "state", "no folder");
  const json found = finding("folders");
  EXPECT_EQ(found["result"], "bad");
  EXPECT_TRUE(contains(found["detail"], (home_ / "state").string())) << found;
  EXPECT_TRUE(contains(found["mend"], "XDG_STATE_HOME")) << found;
  EXPECT_EQ(code_, 1);
}

TEST_F(DoctorTest, FolderTooLongForSocketsIsSeen) {
  const fs::path sockets = folder_.path() / std::string(70, 's');
  fs::create_directory(sockets);
  const json found = finding("folders", {{"VMTEST_HOME", ""},
                                         {"XDG_RUNTIME_DIR", sockets.string()},
                                         {"XDG_DATA_HOME", (home_ / "data").string()},
                                         {"XDG_CACHE_HOME", (home_ / "cache").string()},
                                         {"XDG_STATE_HOME", (home_ / "state").string()}});
  EXPECT_EQ(found["result"], "bad");
  EXPECT_TRUE(contains(found["detail"], "is too long")) << found;
  EXPECT_EQ(found["mend"], "set XDG_RUNTIME_DIR to a short path");
  EXPECT_EQ(code_, 1);
}

/// In the place of the installed firmware's folder there is one that the test fills.
class DoctorFirmwareTest : public DoctorTest {
 protected:
  void SetUp() override {
    DoctorTest::SetUp();
    if (!fs::exists(firmware_ / "OVMF_CODE_4M.fd")) GTEST_SKIP() << "needs the package ovmf";
    code_text_ = read_file(firmware_ / "OVMF_CODE_4M.fd");
    if (::unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "a mount namespace needs root";
    ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    ASSERT_EQ(::mount("tmpfs", firmware_.c_str(), "tmpfs", 0, nullptr), 0);
  }
  /// What it says of the firmware with that file of its code.
  json finding_with(const std::string& code) {
    write_file(firmware_ / "OVMF_CODE_4M.fd", code);
    return finding("UEFI firmware");
  }

  fs::path firmware_ = "/usr/share/OVMF";
  std::string code_text_;
};

TEST_F(DoctorFirmwareTest, WithoutVariablesIsNotEnough) {
  const json found = finding_with(code_text_);
  EXPECT_EQ(found["result"], "limited");
  EXPECT_TRUE(contains(found["detail"], "OVMF_VARS_4M.fd cannot be read")) << found;
  EXPECT_EQ(found["mend"], "apt-get install --reinstall ovmf");
}

TEST_F(DoctorFirmwareTest, FileThatIsNoneOrCutShortIsSeen) {
  json found = finding_with(std::string(code_text_.size(), 'x'));
  EXPECT_EQ(found["result"], "limited");
  EXPECT_TRUE(contains(found["detail"], "OVMF_CODE_4M.fd is no UEFI firmware")) << found;
  found = finding_with(code_text_.substr(0, 4096));
  EXPECT_TRUE(contains(found["detail"], "OVMF_CODE_4M.fd is cut short")) << found;
}

}  // namespace
}  // namespace vmtest::cli
