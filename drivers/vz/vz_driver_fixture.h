#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "failure.h"
#include "halting_kernel.h"
#include "variable.h"
#include "vmtest/host/directories.h"
#include "vmtest/supervisor.h"
#include "vmtest/types.h"
#include "vmtest/vz_driver.h"

namespace vmtest {

using testing::failure_of;

/// With what stands in for Apple's framework where VMTEST_VZ_HELPER names no helper, and a kernel that halts.
class VzDriverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::string(VMTEST_SIMULATED_VZ_HELPER).empty()) ::setenv(kVariable, VMTEST_SIMULATED_VZ_HELPER, 0);
    if (const auto why = driver_.unavailable_reason()) {
      // What was built to stand in for it is not to fail unseen.
      const char* named = std::getenv(kVariable);
      ASSERT_TRUE(named == nullptr || named != std::string(VMTEST_SIMULATED_VZ_HELPER)) << *why;
      GTEST_SKIP() << *why;
    }
    named_ = std::getenv(kVariable);
  }
  void TearDown() override {
    if (vm_) driver_.destroy(*vm_);
    if (named_) ::setenv(kVariable, named_->c_str(), 1);
  }

  [[nodiscard]] PrepareRequest request() const {
    PrepareRequest request;
    request.name = "probe";
    request.vms_dir = folder_.path() / "vms";
    request.nics = {{.mac_address = "52:54:00:12:34:57"}};
    return request;
  }
  [[nodiscard]] MachineConfig machine() const {
    MachineConfig machine;
    machine.architecture = host_architecture();
    machine.memory_mib = 64;
    machine.kernel = testing::halting_kernel();
    machine.nics = request().nics;
    return machine;
  }
  /// Without a kernel: the firmware finds nothing to boot, and stays.
  [[nodiscard]] MachineConfig machine_of_firmware() const {
    MachineConfig firmware = machine();
    firmware.boot = BootMode::Uefi;
    firmware.memory_mib = 128;
    firmware.kernel.clear();
    return firmware;
  }
  const VmHandle& prepare() { return *(vm_ = driver_.prepare(request())); }
  /// What a start says with a helper that has that fault.
  std::string failure_with(const char* fault) {
    // Known by its path: its capabilities are asked for once a process.
    const std::filesystem::path program = folder_.path() / fault;
    std::filesystem::create_symlink(VMTEST_FAKE_VZ_HELPER, program);
    ::setenv("FAKE_VZ_REAL_HELPER", named_->c_str(), 1);
    ::setenv("FAKE_VZ_FAULT", fault, 1);
    ::setenv(kVariable, program.c_str(), 1);
    prepare();
    return failure_of([&] { (void)driver_.start(*vm_, machine()); });
  }
  [[nodiscard]] pid_t helper() const {
    return SupervisorConnection::connect(vm_->supervisor_socket())->status().processes.at("vmtest-vz-helper");
  }

  /// The helper of a Mac with another system, while it lives. It is known by its path: its capabilities are asked for once a
  /// process.
  class OlderSystem {
   public:
    OlderSystem(const VzDriverTest& test, const std::string& version)
        : program_(test.folder_.path() / ("macos-" + version)),
          helper_(kVariable, program_.string()),
          version_("VMTEST_SIM_VZ_OS_VERSION", version) {
      std::filesystem::create_symlink(*test.named_, program_);
    }

   private:
    std::filesystem::path program_;
    testing::Variable helper_;
    testing::Variable version_;
  };

  static constexpr const char* kVariable = "VMTEST_VZ_HELPER";
  TemporaryDirectory folder_;
  std::optional<std::string> named_;
  VzDriver driver_;
  std::optional<VmHandle> vm_;
};

}  // namespace vmtest
