#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "failure.h"
#include "vm.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/propolis_driver.h"
#include "vmtest/supervisor.h"
#include "wait.h"

namespace vmtest {

inline Deadline soon() { return Deadline::after(std::chrono::seconds(20)); }

/// Pids, apart by blanks.
inline std::string children_of(pid_t parent) {
  const std::string number = std::to_string(parent);
  return read_file("/proc/" + number + "/task/" + number + "/children");
}

/// Its only one.
inline pid_t child_of(pid_t parent) {
  const pid_t child = std::atoi(children_of(parent).c_str());
  if (child <= 0) throw Error("process " + std::to_string(parent) + " has no child");
  return child;
}

/// A VM of what stands in for Propolis where VMTEST_PROPOLIS says nothing, with firmware as its guest.
class PropolisDriverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv(kVariable, VMTEST_SIMULATED_PROPOLIS, 0);
    named_ = std::getenv(kVariable);
    if (const auto why = driver_.unavailable_reason()) GTEST_SKIP() << *why;
    if (const Support tap = driver_.support(Capability::Tap); !tap.supported()) GTEST_SKIP() << tap.why;
  }
  void TearDown() override {
    if (vm_) {
      driver_.destroy(*vm_);
      EXPECT_FALSE(std::filesystem::exists(vm_->work_dir));
      EXPECT_FALSE(has_interface());
    }
    ::setenv(kVariable, named_.c_str(), 1);
  }

  [[nodiscard]] PrepareRequest request() const {
    PrepareRequest request;
    request.name = "probe";
    request.vms_dir = folder_.path() / "vms";
    request.nics = {{.kind = NicKind::Tap, .mac_address = "52:54:00:12:34:56"}};
    return request;
  }
  [[nodiscard]] MachineConfig machine() const {
    MachineConfig machine;
    machine.memory_mib = 64;
    machine.boot = BootMode::Uefi;
    machine.nics = request().nics;
    return machine;
  }
  const VmHandle& prepare() { return *(vm_ = driver_.prepare(request())); }
  std::string failure_to_start(const MachineConfig& config) {
    const std::string why = testing::failure_of([&] { (void)driver_.start(prepare(), config); });
    EXPECT_FALSE(has_interface()) << "left after: " << why;
    EXPECT_TRUE(testing::wait_until([&] { return children_of(vm_->supervisor_pid).empty(); }, soon()))
        << "runs on after: " << why;
    return why;
  }
  /// From now on the server is one with that fault.
  void use_server_that(const std::string& fault) {
    const std::filesystem::path program = folder_.path() / "program";
    const std::string faulty = (std::filesystem::path(VMTEST_SIMULATED_PROPOLIS).parent_path() / "faulty_server.py").string();
    write_file(program, "#!/bin/sh\nexec python3 " + faulty + " " + fault + " \"$@\"\n", 0700);
    ::setenv(kVariable, program.c_str(), 1);
  }
  /// Whether the host's side of the VM's card is there.
  [[nodiscard]] bool has_interface() const {
    return vm_ && std::filesystem::exists(std::filesystem::path("/sys/class/net") / propolis::link_name(*vm_));
  }
  /// Why a test that ends the server cannot do so; empty where the server is a program that the keeper started.
  [[nodiscard]] std::string cannot_end_server() const {
    return std::filesystem::exists(named_) ? "" : "the server of VMTEST_PROPOLIS=" + named_ + " is no process of the VM's";
  }
  [[nodiscard]] pid_t keeper() const {
    return SupervisorConnection::connect(vm_->supervisor_socket())->status().processes.at("propolis-keeper");
  }

  static constexpr const char* kVariable = "VMTEST_PROPOLIS";
  TemporaryDirectory folder_;
  std::string named_;
  PropolisDriver driver_;
  std::optional<VmHandle> vm_;
};

#define EXPECT_SAYS(why, words) EXPECT_NE((why).find(words), std::string::npos) << (why)

}  // namespace vmtest
