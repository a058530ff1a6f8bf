// Tests that fail, pass and hang, for failed_test_test to run.

#include <gtest/gtest.h>
#include <unistd.h>

#include <future>
#include <string>

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

TEST_F(Sample, NeverEnds) { std::promise<void>().get_future().wait(); }

}  // namespace
}  // namespace vmtest
