// Tests that pass, fail, hang, crash and leave things behind, for `vmtest run` to be tried on. They need no VM.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

namespace {

// As the fixtures do for suites that share a VM.
[[maybe_unused]] const bool kListed = [] {
  if (std::getenv("VMTEST_LIST_SHARED") != nullptr) std::atexit([] { std::puts("vmtest-shared: Shared"); });
  return true;
}();

[[noreturn]] void sleep_for_ever() {
  for (;;) ::pause();
}

TEST(Good, Passes) {}
TEST(Good, Skips) { GTEST_SKIP() << "no flux capacitor"; }
TEST(Good, DISABLED_Never) { FAIL(); }
TEST(Good, ReportsABoot) {
  std::ofstream(std::getenv("VMTEST_REPORT"))
      << R"({"test": "Good.ReportsABoot", "vm": "good-1", "phases": {"clone": 0.25, "ssh": 0.5, "total": 1.5}, "accelerator": "tcg"})"
      << "\n";
}
TEST(Good, KnowsItsTimeLimit) { EXPECT_STRNE(std::getenv("VMTEST_TEST_TIMEOUT"), nullptr); }

class Numbers : public ::testing::TestWithParam<int> {};
TEST_P(Numbers, ArePositive) { EXPECT_GT(GetParam(), 0); }
INSTANTIATE_TEST_SUITE_P(All, Numbers, ::testing::Values(1, 2));

// Each stands on what the one before it did, so they pass in one process only.
int shared_state = 0;
TEST(Shared, First) { EXPECT_EQ(shared_state++, 0); }
TEST(Shared, Second) { EXPECT_EQ(shared_state++, 1); }
TEST(Alone, First) { EXPECT_EQ(shared_state++, 0); }
TEST(Alone, Second) { EXPECT_EQ(shared_state++, 0); }

// As tests on VMs do: getting ready takes time and may be done ahead, then it waits to be let through.
class Gated : public ::testing::Test {
 protected:
  void SetUp() override {
    const int gate = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, std::getenv("VMTEST_GATE"), sizeof address.sun_path - 1);
    ASSERT_EQ(::connect(gate, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    note("ready");  // its runner knows or has it in its queue
    char word = 0;
    ASSERT_EQ(::read(gate, &word, 1), 1);
    ::close(gate);
    note(std::string("begin ") + word);
  }
  void TearDown() override { note("end"); }
  /// A line in the file that the caller reads.
  static void note(const std::string& what) {
    const int file = ::open(std::getenv("SAMPLE_NOTES"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const std::string line = std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) + " " + what + "\n";
    ASSERT_EQ(::write(file, line.data(), line.size()), static_cast<ssize_t>(line.size()));
    ::close(file);
  }
  /// Until the next test is ready, which it can only be when it was started ahead; not for ever.
  static void wait_for(const std::string& line) {
    for (int i = 0; i < 1000; ++i) {
      std::ifstream file(std::getenv("SAMPLE_NOTES"));
      const std::string text{std::istreambuf_iterator<char>(file), {}};
      if (text.find(line) != std::string::npos) return;
      ::usleep(10000);
    }
    FAIL() << line << " does not come";
  }
};
TEST_F(Gated, A) {}
TEST_F(Gated, B) { wait_for("C ready"); }
TEST_F(Gated, C) {}

TEST(Bad, Fails) { EXPECT_EQ(1 + 1, 3) << "\x1b[31mred\n::error::not a command"; }
// As a VM's test that is killed while the VM boots: its supervisor has saved the evidence by then.
TEST(Bad, DiesInTheMiddleOfABoot) {
  const char* report = std::getenv("VMTEST_REPORT");
  const std::string folder = std::string(report) + ".evidence";
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  std::ofstream(report) << R"({"test": "Bad.DiesInTheMiddleOfABoot", "vm": "bad-1", "evidence": ")" << folder << "\"}\n"
                        << std::flush;
  ::raise(SIGKILL);
}
TEST(Bad, Aborts) { std::abort(); }
TEST(Bad, ExitsInTheMiddle) { std::exit(0); }
TEST(Bad, Hangs) { sleep_for_ever(); }
TEST(Bad, HangsAndIgnoresSigterm) {
  ::signal(SIGTERM, SIG_IGN);
  sleep_for_ever();
}
// A daemon: it has left the test's process group and has no terminal or pipe in common with it.
TEST(Bad, LeavesAProcess) {
  int left_group[2];
  ASSERT_EQ(::pipe2(left_group, O_CLOEXEC), 0);
  if (::fork() == 0) {
    ::setsid();
    const int null = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
    ::alarm(60);
    ::close(left_group[0]);
    ::close(left_group[1]);
    sleep_for_ever();
  }
  // What is still in the group when the test ends is killed with it, and nobody's leak.
  ::close(left_group[1]);
  char end = 0;
  ASSERT_EQ(::read(left_group[0], &end, 1), 0);
}

}  // namespace
