// What runs beside QEMU: virtiofsd and swtpm.

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "failure.h"
#include "qemu_driver_fixture.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/process.h"
#include "vmtest/supervisor.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::failure_of;
using testing::wait_until;

/// With a shared folder and a TPM.
class QemuCompanionsTest : public QemuDriverTest {
 protected:
  void SetUp() override {
    QemuDriverTest::SetUp();
    for (const Capability capability : {Capability::VirtioFs, Capability::Tpm}) {
      if (const Support support = driver_.support(capability); !support.supported()) GTEST_SKIP() << support.why;
    }
    fs::create_directory(folder_.path() / "shared");
  }
  void TearDown() override {
    ::unsetenv("VMTEST_VIRTIOFSD");
    ::unsetenv("VMTEST_SWTPM");
    QemuDriverTest::TearDown();
  }
  MachineConfig with_companions() const {
    MachineConfig config = machine();
    config.shared_folders = {{folder_.path() / "shared", "src"}};
    config.tpm = true;
    return config;
  }
  std::map<std::string, pid_t> processes() const {
    return SupervisorConnection::connect(vm_->supervisor_socket())->status().processes;
  }
  /// From now on that program is this script.
  void stand_in(const char* variable, const std::string& script) const {
    const fs::path program = folder_.path() / "program";
    write_file(program, "#!/bin/sh\n" + script + "\n", 0700);
    ::setenv(variable, program.c_str(), 1);
  }
};

TEST_F(QemuCompanionsTest, RunBesideItAndEndWithIt) {
  (void)driver_.start(prepare(), with_companions());
  const auto running = processes();
  ASSERT_EQ(running.size(), 3U);
  ASSERT_TRUE(running.contains("virtiofsd-src"));
  ASSERT_TRUE(running.contains("swtpm"));
  (void)driver_.stop(*vm_, milliseconds(0));
  EXPECT_TRUE(wait_until([&] { return processes().empty(); }, soon()));
  EXPECT_EQ(driver_.state(*vm_), VmState::Stopped);
}

TEST_F(QemuCompanionsTest, AreThereAgainAtTheNextStart) {
  (void)driver_.start(prepare(), with_companions());
  (void)driver_.stop(*vm_, milliseconds(0));
  (void)driver_.start(*vm_, with_companions());
  EXPECT_EQ(processes().size(), 3U);
  EXPECT_EQ(driver_.state(*vm_), VmState::Running);
}

TEST_F(QemuCompanionsTest, OneThatDiesTakesTheVmWithIt) {
  (void)driver_.start(prepare(), with_companions());
  ASSERT_EQ(::kill(processes().at("virtiofsd-src"), SIGKILL), 0);
  const auto exit = driver_.wait_exit(*vm_, seconds(20));
  ASSERT_TRUE(exit);
  EXPECT_FALSE(exit->orderly);
  EXPECT_EQ(exit->how, "virtiofsd-src ended with signal 9 (Killed), and the VM, which needs it, was ended");
  EXPECT_EQ(driver_.state(*vm_), VmState::Failed);
  EXPECT_TRUE(wait_until([&] { return processes().empty(); }, soon()));
}

TEST_F(QemuCompanionsTest, OneThatDiesAtOnceIsQuoted) {
  stand_in("VMTEST_VIRTIOFSD", "[ \"$1\" = --version ] && echo virtiofsd 1.0 && exit\necho no folders today >&2\nexit 5");
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), with_companions()); });
  EXPECT_NE(why.find("virtiofsd, which serves the shared folder " + (folder_.path() / "shared").string()), std::string::npos)
      << why;
  EXPECT_NE(why.find("exit code 5"), std::string::npos) << why;
  EXPECT_NE(why.find("no folders today"), std::string::npos) << why;
  EXPECT_TRUE(wait_until([&] { return processes().empty(); }, soon()));
}

TEST_F(QemuCompanionsTest, BadArgumentIsStillQemusOwnStory) {
  MachineConfig config = with_companions();
  config.extra_arguments = {"-device", "no-such-device"};
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), config); });
  EXPECT_NE(why.find("no-such-device"), std::string::npos) << why;
  EXPECT_TRUE(wait_until([&] { return processes().empty(); }, soon()));
}

TEST_F(QemuCompanionsTest, MissingProgramIsNamedAndNothingRuns) {
  ::setenv("VMTEST_SWTPM", "/nonexistent/swtpm", 1);
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), with_companions()); });
  EXPECT_NE(why.find("VMTEST_SWTPM=/nonexistent/swtpm is no program"), std::string::npos) << why;
  EXPECT_TRUE(processes().empty());
  EXPECT_EQ(driver_.state(*vm_), VmState::Prepared);
}

TEST_F(QemuCompanionsTest, MissingFolderIsNamedAndNothingRuns) {
  fs::remove(folder_.path() / "shared");
  const std::string why = failure_of([&] { (void)driver_.start(prepare(), with_companions()); });
  EXPECT_NE(why.find("there is no folder " + (folder_.path() / "shared").string()), std::string::npos) << why;
  EXPECT_TRUE(processes().empty());
}

TEST_F(QemuCompanionsTest, GoWithTheSupervisor) {
  (void)driver_.start(prepare(), with_companions());
  const auto running = processes();
  ASSERT_EQ(::kill(vm_->supervisor_pid, SIGKILL), 0);
  EXPECT_TRUE(wait_until([&] { return !process_start_time(running.at("virtiofsd-src")); }, soon()));
  EXPECT_TRUE(wait_until([&] { return !process_start_time(running.at("swtpm")); }, soon()));
}

TEST_F(QemuCompanionsTest, MachineWithThemIsNotFrozen) {
  EXPECT_NE(driver_.templates()->obstacle(with_companions()).value_or("").find("virtiofsd"), std::string::npos);
}

}  // namespace
}  // namespace vmtest
