// What a failing, a hanging and a passing test leave behind, each run as a process of its own.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "image.h"
#include "vmtest/accelerator.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"
#include "vmtest/template_store.h"
#include "vmtest/vm_test.h"
#include "wait.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A person's terminal.
class Terminal {
 public:
  Terminal() : ours_(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    if (::grantpt(ours_.get()) != 0 || ::unlockpt(ours_.get()) != 0) throw_errno("cannot make a terminal");
    theirs_ = open_file(::ptsname(ours_.get()), O_RDWR | O_NOCTTY);
  }
  [[nodiscard]] int programs_end() const { return theirs_.get(); }
  void type(std::string_view keys) const { write_all(ours_.get(), keys); }
  /// Waits until the text was printed.
  [[nodiscard]] bool shows(const std::string& text) {
    const Deadline deadline = Deadline::after(30s);
    while (!contains(shown_, text)) {
      char data[4096];
      if (!wait_readable(ours_.get(), deadline)) return false;
      const ssize_t count = ::read(ours_.get(), data, sizeof data);
      if (count <= 0) return false;
      shown_.append(data, static_cast<std::size_t>(count));
    }
    return true;
  }
  [[nodiscard]] bool echoes() const {
    termios settings{};
    return ::tcgetattr(theirs_.get(), &settings) == 0 && (settings.c_lflag & ECHO) != 0;
  }

 private:
  FileDescriptor ours_;
  FileDescriptor theirs_;
  std::string shown_;
};

class FailedTestTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::require_image("tiny");
    if (IsSkipped()) return;
    // A home of its own, so that what is left can be told from other tests'. The images are the user's.
    std::filesystem::create_directories(home_ / "data");
    std::filesystem::create_directory_symlink(data_dir() / "images", home_ / "data" / "images");
  }

  void TearDown() override {
    // A kept VM must not outlive a test that failed.
    std::error_code ignored;
    for (const auto& vm : std::filesystem::directory_iterator(home_ / "data" / "vms", ignored)) {
      (void)vmtest({"stop", "--force", vm.path().filename().string()});
    }
  }

  /// Runs a sample test in a process of its own.
  ToolResult run(const std::string& test, std::map<std::string, std::string> environment = {},
                 const std::string& suite = "Sample") {
    environment["VMTEST_HOME"] = home_.string();
    return exec_tool({VMTEST_SAMPLE, "--gtest_filter=" + suite + "." + test}, Deadline::after(150s), environment);
  }
  /// Runs `vmtest` on the same home.
  ToolResult vmtest(const std::vector<std::string>& arguments) {
    std::vector<std::string> argv = {VMTEST_CLI};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return exec_tool(argv, Deadline::after(90s), {{"VMTEST_HOME", home_.string()}});
  }
  /// Starts `vmtest` on a terminal.
  ChildProcess start_on(const Terminal& terminal, const std::vector<std::string>& arguments) {
    ProcessOptions options;
    options.argv = {VMTEST_CLI};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    options.environment = {{"VMTEST_HOME", home_.string()}};
    options.standard_input = terminal.programs_end();
    options.standard_output = terminal.programs_end();
    options.standard_error = terminal.programs_end();
    return ChildProcess::start(options);
  }
  /// The VM that a shell is to be had in, as a failed test's output says.
  static std::string kept_vm(const std::string& output) {
    const std::string words = "vmtest ssh ";
    const std::size_t at = output.find(words);
    if (at == std::string::npos) return "";
    return output.substr(at + words.size(), output.find('\n', at) - at - words.size());
  }
  /// Files below the home's evidence folder with that name.
  [[nodiscard]] std::vector<std::filesystem::path> evidence(const std::string& file) const {
    std::vector<std::filesystem::path> found;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(home_ / "state" / "evidence", ignored)) {
      if (entry.path().filename() == file) found.push_back(entry.path());
    }
    return found;
  }
  /// Templates in the home's store that hold a fixture's preparation. Asserts that there is the one without.
  [[nodiscard]] std::size_t prepared_templates() const {
    const auto templates = TemplateStore(home_ / "cache" / "templates").list();
    EXPECT_FALSE(templates.empty());
    return static_cast<std::size_t>(std::count_if(templates.begin(), templates.end(),
                                                  [](const TemplateInfo& tmpl) { return !tmpl.prepared_version.empty(); }));
  }
  [[nodiscard]] bool has_vms() const {
    return std::filesystem::exists(home_ / "data" / "vms") && !std::filesystem::is_empty(home_ / "data" / "vms");
  }

  TemporaryDirectory folder_;
  std::filesystem::path home_ = folder_.path() / "home";
};

TEST_F(FailedTestTest, FailureLeavesEvidenceAndSaysWhere) {
  const ToolResult result = run("Fails");
  EXPECT_EQ(result.status.code, 1) << result.out << result.err;
  const auto consoles = evidence("console.log");
  ASSERT_EQ(consoles.size(), 1U) << result.out;
  EXPECT_TRUE(contains(result.out, consoles.front().parent_path().string())) << result.out;
  EXPECT_TRUE(contains(read_file(consoles.front()), "said by the guest"));
  EXPECT_TRUE(contains(read_file(evidence("spec.json").at(0)), "tiny"));
  EXPECT_TRUE(contains(read_file(evidence("timeline.txt").at(0)), "echo said by the guest"));
  EXPECT_EQ(evidence("ssh.log").size(), 1U);
  EXPECT_TRUE(contains(read_file(evidence("command_line.txt").at(0)), "qemu-system"));
  EXPECT_EQ(evidence("id_ed25519").size(), 0U);
  EXPECT_FALSE(has_vms());
}

TEST_F(FailedTestTest, PassingTestLeavesNothing) {
  const ToolResult result = run("Passes");
  EXPECT_EQ(result.status.code, 0) << result.out << result.err;
  std::error_code ignored;
  const std::filesystem::recursive_directory_iterator left(home_ / "state" / "evidence", ignored);
  EXPECT_EQ(left, std::filesystem::recursive_directory_iterator()) << left->path();
  EXPECT_FALSE(has_vms());
}

TEST_F(FailedTestTest, PreparationThatFailsACheckMakesNoTemplate) {
  const ToolResult result = run("*", {{"VMTEST_FORK", "require"}}, "HalfPrepared");
  EXPECT_TRUE(contains(result.out, "[  FAILED  ] 2 tests")) << result.out << result.err;
  EXPECT_TRUE(contains(result.out, "prepare_template() failed a check; no template is made of it")) << result.out;
  EXPECT_FALSE(contains(result.out, "a test began")) << result.out;
  EXPECT_EQ(evidence("console.log").size(), 2U);
  EXPECT_EQ(prepared_templates(), 0U);
  EXPECT_FALSE(has_vms());
}

TEST_F(FailedTestTest, PreparationThatSkipsMakesNoTemplateAndSkipsEachTest) {
  const ToolResult result = run("*", {{"VMTEST_FORK", "require"}}, "SkippedWhenPrepared");
  EXPECT_EQ(result.status.code, 0) << result.out << result.err;
  EXPECT_TRUE(contains(result.out, "[  SKIPPED ] 2 tests")) << result.out << result.err;
  EXPECT_TRUE(contains(result.out, "said by its preparation")) << result.out;
  EXPECT_FALSE(contains(result.out, "a test began")) << result.out;
  EXPECT_TRUE(evidence("console.log").empty());
  EXPECT_EQ(prepared_templates(), 0U);
  EXPECT_FALSE(has_vms());
}

TEST_F(FailedTestTest, DemandedKvmThatIsNotThereFailsAndDoesNotSkip) {
  // For this process and its children.
  const bool is_taken_away =
      ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
      (!std::filesystem::exists("/dev/kvm") || ::mount("/dev/null", "/dev/kvm", nullptr, MS_BIND, nullptr) == 0);
  const AcceleratorChoice kvm = prove_kvm(host_architecture());
  if (!is_taken_away && kvm.accelerator == Accelerator::Kvm) GTEST_SKIP() << "KVM serves, and to take it away needs root";
  ASSERT_EQ(kvm.accelerator, Accelerator::Tcg) << kvm.reason;
  const ToolResult result = run("Passes", {{"VMTEST_ACCEL", "kvm"}});
  EXPECT_EQ(result.status.code, 1);
  EXPECT_TRUE(contains(result.out, "VMTEST_ACCEL=kvm demands KVM")) << result.out << result.err;
}

TEST_F(FailedTestTest, TimeOfPreparationsCounts) {
  const auto started = std::chrono::steady_clock::now();
  const ToolResult result = run("NeverEnds", {{"VMTEST_TEST_TIMEOUT", "25"}}, "SlowToPrepare");
  EXPECT_TRUE(contains(result.out, "SlowToPrepare.NeverEnds took longer than 25.0 s")) << result.out << result.err;
  EXPECT_LT(std::chrono::steady_clock::now() - started, 36s) << "the limit began anew when the guest was prepared";
  EXPECT_EQ(evidence("console.log").size(), 1U);
}

TEST_F(FailedTestTest, TimeOfASharedVmsPreparationsCountsForItsFirstTest) {
  const auto started = std::chrono::steady_clock::now();
  const ToolResult result = run("NeverEnds", {{"VMTEST_TEST_TIMEOUT", "25"}}, "SlowToShare");
  EXPECT_TRUE(contains(result.out, "SlowToShare.NeverEnds took longer than 25.0 s")) << result.out << result.err;
  EXPECT_LT(std::chrono::steady_clock::now() - started, 36s) << "the limit began anew with the suite's first test";
}

TEST_F(FailedTestTest, HangingTestOnASharedVmIsEndedWithEvidence) {
  const ToolResult result = run("*", {{"VMTEST_TEST_TIMEOUT", "20"}}, "Shared");
  EXPECT_TRUE(contains(result.out, "[       OK ] Shared.Passes")) << result.out << result.err;
  EXPECT_TRUE(contains(result.out, "Shared.NeverEnds took longer than 20.0 s")) << result.out;
  const auto consoles = evidence("console.log");
  ASSERT_EQ(consoles.size(), 1U);
  EXPECT_TRUE(contains(result.out, consoles.front().parent_path().string())) << result.out;
  EXPECT_TRUE(testing::wait_until([&] { return !has_vms(); }, Deadline::after(2s)));
}

TEST_F(FailedTestTest, HangingTestOfNoFixtureIsEndedWithEvidence) {
  const ToolResult result = run("NeverEnds", {{"VMTEST_TEST_TIMEOUT", "25"}}, "Plain");
  EXPECT_EQ(result.status.code, 124) << result.out << result.err;
  EXPECT_TRUE(contains(result.out, "Plain.NeverEnds took longer than 25.0 s")) << result.out;
  const auto consoles = evidence("console.log");
  ASSERT_EQ(consoles.size(), 2U) << result.out;
  for (const auto& console : consoles) EXPECT_TRUE(contains(result.out, console.parent_path().string())) << result.out;
  // The supervisor cleans up after a process that ended without a goodbye.
  EXPECT_TRUE(testing::wait_until([&] { return !has_vms(); }, Deadline::after(2s)));
}

TEST_F(FailedTestTest, KeptVmCanBeEnteredAndStopped) {
  const ToolResult result = run("Fails", {{"VMTEST_KEEP", "1"}});
  EXPECT_EQ(result.status.code, 1) << result.out << result.err;
  const std::string name = kept_vm(result.out);
  ASSERT_NE(name, "") << result.out;
  EXPECT_TRUE(contains(vmtest({"ps"}).out, name));
  const ToolResult answer = vmtest({"ssh", name, "--", "cat", "/root/file"});
  EXPECT_EQ(answer.out, "kept\n") << answer.err;
  EXPECT_EQ(vmtest({"ssh", name, "--", "exit 7"}).status.code, 7);
  {
    Terminal terminal;
    ChildProcess console = start_on(terminal, {"console", name});
    EXPECT_TRUE(terminal.shows("attached to " + name));
    (void)vmtest({"ssh", name, "--", "echo said on the console > /dev/console"});
    EXPECT_TRUE(terminal.shows("said on the console"));
    terminal.type("\x1d");  // Ctrl-]
    const auto ended = console.wait(Deadline::after(20s));
    ASSERT_TRUE(ended);
    EXPECT_TRUE(ended->ok());
    EXPECT_TRUE(terminal.echoes()) << "the terminal was left raw";
  }
  EXPECT_TRUE(contains(vmtest({"ps"}).out, name));
  EXPECT_EQ(vmtest({"stop", name}).status.code, 0);
  EXPECT_FALSE(has_vms());
  EXPECT_EQ(vmtest({"stop", name}).status.code, 3);
}

TEST_F(FailedTestTest, VmThatWasNeverReadyIsKeptToo) {
  const ToolResult result = run("HasNoVm", {{"VMTEST_KEEP", "1"}}, "Unready");
  EXPECT_EQ(result.status.code, 1) << result.out << result.err;
  const std::string name = kept_vm(result.out);
  ASSERT_NE(name, "") << result.out;
  EXPECT_EQ(vmtest({"ssh", name, "--", "cat", "/root/file"}).out, "kept\n");
  EXPECT_EQ(evidence("console.log").size(), 1U);
  EXPECT_EQ(vmtest({"stop", name}).status.code, 0);
  EXPECT_FALSE(has_vms());
}

}  // namespace
}  // namespace vmtest
