// Three futures of one prepared machine: an upgrade is cut off at three points, each in a fork of the same moment, and must have
// done all of its work or none of it once the machine is up again.

#include <vmtest/vm_test.h>

#include <string>

using namespace std::chrono_literals;

namespace {

/// Replaces a file of two lines by way of a new file and one rename. With a point as argument it stops there.
constexpr const char* kUpgrade = R"sh(#!/bin/sh
stop=$1
at() { [ "$1" != "$stop" ] || { echo "$1" > /dev/shm/at; sleep 1000; }; }
echo "version 2" > /srv/product.new
at started
echo "new data" >> /srv/product.new
sync
at written
mv /srv/product.new /srv/product
sync
at switched
)sh";

}  // namespace

class Upgrade : public vmtest::VmTest {
 protected:
  vmtest::VmSpec spec() const override { return {.files = {{"/usr/local/bin/upgrade", kUpgrade, 0755}}}; }

  // Done once, however many tests there are: they all continue from here.
  void prepare_template(vmtest::Vm& vm) override {
    vm.run("mkdir -p /srv && printf 'version 1\\nold data\\n' > /srv/product && sync");
  }

  /// What is installed after the upgrade was cut off at `point` by a power failure.
  std::string after_power_failure_at(const std::string& point) {
    vmtest::Vm future = vm().fork();
    const auto upgrade = future.spawn({"upgrade", point});
    future.wait_until([&] { return future.exec("grep -qx " + point + " /dev/shm/at").ok(); }, 30s,
                      "the upgrade to be at " + point);
    future.power_off();
    future.start();
    return future.run("cat /srv/product").out;
  }
};

TEST_F(Upgrade, IsAllOrNothingWhereverThePowerFails) try {
  EXPECT_EQ(after_power_failure_at("started"), "version 1\nold data\n");
  EXPECT_EQ(after_power_failure_at("written"), "version 1\nold data\n");
  EXPECT_EQ(after_power_failure_at("switched"), "version 2\nnew data\n");
  EXPECT_EQ(vm().run("cat /srv/product").out, "version 1\nold data\n");  // nothing happened here
} catch (const vmtest::Unsupported& reason) {
  GTEST_SKIP() << reason.what();  // not all hypervisors can fork a running VM
}

TEST_F(Upgrade, Works) {
  vm().run("upgrade");
  EXPECT_EQ(vm().run("cat /srv/product").out, "version 2\nnew data\n");
}
