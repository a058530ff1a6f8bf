#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "vmtest/host/directories.h"
#include "vmtest/qemu_driver.h"
#include "vmtest/supervisor.h"

namespace vmtest {

inline Deadline soon() { return Deadline::after(std::chrono::seconds(20)); }

/// A VM of a real QEMU with no guest, which sits in its firmware without a disk.
class QemuDriverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = driver_.unavailable_reason()) GTEST_SKIP() << *why;
  }
  void TearDown() override {
    if (vm_) driver_.destroy(*vm_);
  }

  [[nodiscard]] PrepareRequest request(const std::string& name = "probe") const {
    PrepareRequest request;
    request.name = name;
    request.vms_dir = folder_.path() / "vms";
    request.evidence_dir = folder_.path() / "evidence";
    request.nics = {{.kind = NicKind::User, .mac_address = "52:54:00:12:34:56"}};
    return request;
  }
  [[nodiscard]] MachineConfig machine() const {
    MachineConfig machine;
    machine.architecture = host_architecture();
    machine.memory_mib = 32;
    machine.nics = request().nics;
    return machine;
  }
  VmHandle& prepare() { return vm_.emplace(driver_.prepare(request())); }
  VmHandle& start() {
    prepare();
    vm_ = driver_.start(*vm_, machine());
    return *vm_;
  }
  [[nodiscard]] pid_t qemu_pid() const {
    return SupervisorConnection::connect(vm_->supervisor_socket())->status().processes.at("qemu");
  }

  /// What wait_exit() tells of a stop() that had to use a signal.
  void expect_forced_by(const char* signal) {
    const auto exit = driver_.wait_exit(*vm_, std::chrono::milliseconds(0));
    ASSERT_TRUE(exit);
    EXPECT_TRUE(exit->forced);
    EXPECT_NE(exit->how.find(signal), std::string::npos) << exit->how;
  }

  TemporaryDirectory folder_;
  QemuDriver driver_;
  std::optional<VmHandle> vm_;
};

}  // namespace vmtest
