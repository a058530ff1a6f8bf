// Tests that pass, fail, hang, crash and leave things behind, for `vmtest run` to be tried on. They need no VM.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

namespace {

// As the fixtures do for suites that share a VM.
[[maybe_unused]] const bool listed = [] {
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
