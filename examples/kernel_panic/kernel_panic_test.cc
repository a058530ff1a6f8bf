// A guest that dies under a test: the call that was waiting ends at once, and its error tells what the kernel said.

#include <vmtest/vm_test.h>

#include <string>

class KernelPanic : public vmtest::VmTest {};

TEST_F(KernelPanic, IsDiagnosedWhileACommandWaits) {
  try {
    // The kernel panics under this command, which therefore never answers.
    (void)vm().exec("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 1000");
    FAIL() << "the guest survived";
  } catch (const vmtest::Error& error) {
    EXPECT_NE(std::string(error.what()).find("kernel panicked: "), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("sysrq triggered crash"), std::string::npos) << error.what();
  }
}

// The same at boot, as by a driver that crashes when it is loaded: instead of waiting for a guest that will never be ready, the
// boot fails with the reason.
TEST(KernelPanicAtBoot, IsDiagnosedAtOnce) {
  vmtest::VmSpec spec;
  spec.setup_commands = {"echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"};
  try {
    const vmtest::Vm vm = vmtest::Vm::boot(spec);
    FAIL() << "it became ready";
  } catch (const vmtest::Unsupported& reason) {
    GTEST_SKIP() << reason.what();
  } catch (const vmtest::Error& error) {
    EXPECT_NE(std::string(error.what()).find("Kernel panic - not syncing"), std::string::npos) << error.what();
  }
}
