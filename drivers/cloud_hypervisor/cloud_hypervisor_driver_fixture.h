#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "failure.h"
#include "halting_kernel.h"
#include "variable.h"
#include "vmtest/cloud_hypervisor_driver.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/supervisor.h"
#include "vmtest/types.h"
#include "wait.h"

namespace vmtest {

using testing::failure_of;

/// With what stands in for Cloud Hypervisor where VMTEST_CLOUD_HYPERVISOR names none, and a kernel that halts.
class CloudHypervisorDriverTest : public ::testing::Test {
 protected:
  explicit CloudHypervisorDriverTest(CloudHypervisorDriver::Mode mode = CloudHypervisorDriver::Mode::Api) : driver_(mode) {}

  void SetUp() override {
    ::setenv(kVariable, VMTEST_SIMULATED_CLOUD_HYPERVISOR, 0);
    named_ = std::getenv(kVariable);
    if (const auto why = driver_.unavailable_reason()) GTEST_SKIP() << *why;
    if (const Support tap = driver_.support(Capability::Tap); !tap.supported()) GTEST_SKIP() << tap.why;
  }
  void TearDown() override {
    if (vm_) {
      driver_.destroy(*vm_);
      EXPECT_FALSE(std::filesystem::exists(vm_->work_dir));
      EXPECT_FALSE(std::filesystem::exists(vm_->runtime_dir));
      // What a VM has goes before its supervisor.
      EXPECT_TRUE(testing::wait_until([&] { return !is_alive(vm_->supervisor_pid); }, Deadline::after(std::chrono::seconds(20))));
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
    machine.architecture = host_architecture();
    machine.memory_mib = 64;
    machine.kernel = testing::halting_kernel();
    machine.nics = request().nics;
    return machine;
  }
  /// Whether the program is the one whose faults tests can ask for.
  [[nodiscard]] bool is_stand_in() const { return named_ == VMTEST_SIMULATED_CLOUD_HYPERVISOR; }
  const VmHandle& prepare() { return *(vm_ = driver_.prepare(request())); }
  /// From now on that is Cloud Hypervisor.
  void stand_in(const std::string& script) {
    const std::filesystem::path program = folder_.path() / "program";
    write_file(program, "#!/bin/sh\n" + script + "\n", 0700);
    ::setenv(kVariable, program.c_str(), 1);
  }

  /// From now on runtime folders are below that one, which is there.
  void use_runtime_folder(const std::filesystem::path& folder) {
    home_.emplace("VMTEST_HOME", "");
    runtime_.emplace("XDG_RUNTIME_DIR", folder.string());
  }
  /// From now on runtime folders are in one so long that `socket`, in a VM's, has a path of that many bytes.
  void lengthen_runtime_folder(const std::filesystem::path& socket, std::size_t bytes) {
    // Below $XDG_RUNTIME_DIR: "/vmtest/", ten digits, "/".
    constexpr std::size_t kBetween = 8 + 10 + 1;
    const std::size_t above = folder_.path().string().size() + 1;
    runtime_folder_ = folder_.path() / std::string(bytes - socket.string().size() - kBetween - above, 'x');
    std::filesystem::create_directory(runtime_folder_);
    use_runtime_folder(runtime_folder_);
  }

  /// Starts a VM by a Cloud Hypervisor that has that fault, see broken-server.
  void start_with(const std::string& fault) {
    stand_in(std::string("exec ") + VMTEST_BROKEN_CLOUD_HYPERVISOR + " " + fault + " \"$@\"");
    (void)driver_.start(prepare(), machine());
  }
  /// What such a start says.
  std::string failure_with(const std::string& fault) {
    return failure_of([&] { start_with(fault); });
  }

  /// Destroys the VM. Returns what of it is there after that: folders, processes, its state.
  [[nodiscard]] std::vector<std::string> left_after_destroy() {
    auto processes = SupervisorConnection::connect(vm_->supervisor_socket())->status().processes;
    processes["supervisor"] = vm_->supervisor_pid;
    driver_.destroy(*vm_);
    std::vector<std::string> left;
    for (const std::filesystem::path& folder : {vm_->work_dir, vm_->runtime_dir}) {
      if (std::filesystem::exists(folder)) left.push_back(folder.string());
    }
    for (const auto& process : processes) {
      const auto has_ended = [&process] { return !is_alive(process.second); };
      if (!testing::wait_until(has_ended, Deadline::after(std::chrono::seconds(20)))) left.push_back(process.first);
    }
    if (const VmState state = driver_.state(*vm_); state != VmState::Destroyed) left.emplace_back(to_string(state));
    return left;
  }
  /// Whether a process has not ended, be it reaped or not.
  [[nodiscard]] static bool is_alive(pid_t pid) {
    try {
      const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
      return stat.compare(stat.rfind(')') + 1, 2, " Z") != 0;
    } catch (const std::system_error&) {
      return false;
    }
  }

  static constexpr const char* kVariable = "VMTEST_CLOUD_HYPERVISOR";
  TemporaryDirectory folder_;
  std::filesystem::path runtime_folder_;
  std::optional<testing::Variable> home_;
  std::optional<testing::Variable> runtime_;
  std::string named_;
  CloudHypervisorDriver driver_;
  std::optional<VmHandle> vm_;
};

}  // namespace vmtest
