// `vmtest exec`: what a command in a fresh VM is given, and what comes back of it.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <string>
#include <vector>

#include "image.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

class ExecTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::require_image("tiny"); }

  /// Runs `vmtest exec` with these words behind it, and `input` on its standard input.
  ToolResult exec(const std::vector<std::string>& words, const std::string& input = "") {
    write_file(folder_.path() / "in", input);
    const FileDescriptor in = open_file(folder_.path() / "in", O_RDONLY);
    const FileDescriptor out = open_file(folder_.path() / "out", O_WRONLY | O_CREAT);
    const FileDescriptor err = open_file(folder_.path() / "err", O_WRONLY | O_CREAT);
    ProcessOptions options;
    options.argv = {VMTEST_CLI, "exec"};
    options.argv.insert(options.argv.end(), words.begin(), words.end());
    options.standard_input = in.get();
    options.standard_output = out.get();
    options.standard_error = err.get();
    const auto ended = ChildProcess::start(options).wait(Deadline::after(150s));
    return {ended.value_or(ExitStatus{}), read_file(folder_.path() / "out"), read_file(folder_.path() / "err")};
  }

  TemporaryDirectory folder_;
};

TEST_F(ExecTest, OutputErrorsAndExitCodeAreTheCommands) {
  const ToolResult result = exec({"-q", "--", "echo said; echo complained >&2; exit 7"});
  EXPECT_EQ(result.status.code, 7);
  EXPECT_EQ(result.out, "said\n");
  EXPECT_EQ(result.err, "complained\n");
}

TEST_F(ExecTest, CommandGetsPushedFilesWordsAndStandardInput) {
  write_file(folder_.path() / "pushed", "pushed\n");
  const std::string push = (folder_.path() / "pushed").string() + ":/root/a b";
  const ToolResult result = exec({"-q", "--push", push, "--stdin", "--", "cat", "/root/a b", "-"}, std::string(200000, 'i'));
  EXPECT_EQ(result.status.code, 0) << result.err;
  EXPECT_EQ(result.out, "pushed\n" + std::string(200000, 'i'));
}

TEST_F(ExecTest, StandardInputIsEmptyUnlessAskedFor) { EXPECT_EQ(exec({"-q", "--", "cat"}, "not for the guest").out, ""); }

TEST_F(ExecTest, SignalThatEndsTheCommandIsTold) {
  const ToolResult result = exec({"--", "kill -TERM $$; sleep 60"});
  EXPECT_EQ(result.status.code, 128 + SIGTERM) << result.err;
  EXPECT_NE(result.err.find(" is ready ("), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("ended by signal TERM"), std::string::npos) << result.err;
}

TEST_F(ExecTest, CommandThatTakesTooLongIsAFailureOfItsOwn) {
  const ToolResult result = exec({"-q", "--timeout", "1", "--", "sleep", "600"});
  EXPECT_EQ(result.status.code, 125);
  EXPECT_NE(result.err.find("sleep 600"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace vmtest
