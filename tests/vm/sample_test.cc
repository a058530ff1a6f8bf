// Tests that fail, pass and hang, for failed_test_test to run, and some that tell what they are at, for runner_test.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <string>

#include "vmtest/host/file_descriptor.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

class Sample : public VmTest {
 protected:
  [[nodiscard]] VmSpec spec() const override { return {.name = "sample-" + std::to_string(::getpid())}; }
};

TEST_F(Sample, Fails) {
  vm().run("echo said by the guest > /dev/console; echo kept > /root/file");
  FAIL() << "as it should";
}

TEST_F(Sample, Passes) { vm().run("true"); }

TEST(Plain, NeverEnds) {
  const Vm first = Vm::boot({.name = "first-" + std::to_string(::getpid())});
  const Vm second = Vm::boot({.name = "second-" + std::to_string(::getpid())});
  std::promise<void>().get_future().wait();
}

/// Cannot be set up.
class Unready : public VmTest {
 protected:
  [[nodiscard]] VmSpec spec() const override { return {.setup_commands = {"echo kept > /root/file; false"}}; }
};

TEST_F(Unready, HasNoVm) {}

/// Whose preparation gives up half way.
class HalfPrepared : public VmTest {
 protected:
  void prepare_template(Vm& vm) override {
    vm.run("echo half > /root/file");
    ASSERT_TRUE(vm.exec("false").ok());
    vm.run("echo whole > /root/file");
  }
};

TEST_F(HalfPrepared, A) { std::puts("a test began"); }
TEST_F(HalfPrepared, B) { std::puts("a test began"); }

class SkippedWhenPrepared : public VmTest {
 protected:
  void prepare_template(Vm& vm) override {
    if (!vm.exec("false").ok()) GTEST_SKIP() << "said by its preparation";
    vm.run("echo whole > /root/file");
  }
};

TEST_F(SkippedWhenPrepared, A) { std::puts("a test began"); }
TEST_F(SkippedWhenPrepared, B) { std::puts("a test began"); }

/// Takes twelve seconds until its test begins.
class SlowToPrepare : public Sample {
 protected:
  void prepare_guest() override { vm().run("sleep 12"); }
};

TEST_F(SlowToPrepare, NeverEnds) { std::promise<void>().get_future().wait(); }

class Shared : public SharedVmTest<Shared> {};

TEST_F(Shared, Passes) { vm().run("true"); }

TEST_F(Shared, NeverEnds) { std::promise<void>().get_future().wait(); }

/// Takes twelve seconds until its first test begins.
class SlowToShare : public SharedVmTest<SlowToShare> {
 public:
  static void prepare_shared_guest(Vm& vm) { vm.run("sleep 12"); }
};

TEST_F(SlowToShare, NeverEnds) { std::promise<void>().get_future().wait(); }

/// Puts down what it is at, a line each, in the file that SAMPLE_NOTES names.
class InTurn : public VmTest {
 protected:
  void prepare_guest() override { note("ready"); }
  void note(const std::string& what) {
    const std::string line = std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) + " " + what + " " +
                             std::to_string(::getpid()) + "\n";
    const FileDescriptor notes = open_file(std::getenv("SAMPLE_NOTES"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    write_all(notes.get(), line);
  }
};

TEST_F(InTurn, A) { vm().run("true"); }

TEST_F(InTurn, BWaits) {
  note("begins");
  vm().wait_until([] { return std::filesystem::exists(std::getenv("SAMPLE_GO")); }, std::chrono::minutes(2), "a sign to go on");
  if (std::getenv("SAMPLE_SECOND_VM") != nullptr) {
    EXPECT_TRUE(Vm::boot({}, {.admission_time = std::chrono::minutes(1)}).exec("true").ok());
    note("had a second VM");
  }
}

TEST_F(InTurn, C) {
  note("begins");
  vm().run("true");
}

TEST_F(InTurn, D) { vm().run("true"); }

}  // namespace
}  // namespace vmtest
