// A fork that comes to nothing after the disks were told to go on in new files.

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "image.h"
#include "vmtest/error.h"
#include "vmtest/qemu_driver.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

/// QEMU's driver, whose states cannot be written as long as `breaks` holds: QEMU has switched the disks by then.
class FullDiskDriver final : public Driver, private TemplateFacet {
 public:
  bool breaks = false;

  DriverKind kind() const override { return qemu_.kind(); }
  std::optional<std::string> unavailable_reason() const override { return qemu_.unavailable_reason(); }
  DiskNeeds disk_needs() const override { return qemu_.disk_needs(); }
  Support support(Capability capability) const override { return qemu_.support(capability); }
  VmHandle prepare(const PrepareRequest& request) override { return qemu_.prepare(request); }
  VmHandle start(const VmHandle& vm, const MachineConfig& machine) override { return qemu_.start(vm, machine); }
  VmHandle stop(const VmHandle& vm, std::chrono::milliseconds timeout) override { return qemu_.stop(vm, timeout); }
  VmHandle suspend(const VmHandle& vm) override { return qemu_.suspend(vm); }
  VmHandle resume(const VmHandle& vm) override { return qemu_.resume(vm); }
  void destroy(const VmHandle& vm) override { qemu_.destroy(vm); }
  VmState state(const VmHandle& vm) override { return qemu_.state(vm); }
  std::string guest_ip(const VmHandle& vm) override { return qemu_.guest_ip(vm); }
  ConsoleEndpoint console_endpoint(const VmHandle& vm) const override { return qemu_.console_endpoint(vm); }
  std::optional<VmExit> wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) override {
    return qemu_.wait_exit(vm, timeout);
  }
  TemplateFacet* templates() override { return this; }

 private:
  bool shares_memory() const override { return true; }
  std::optional<std::string> obstacle(const MachineConfig& machine) const override { return facet().obstacle(machine); }
  std::string fingerprint(const MachineConfig& machine) const override { return facet().fingerprint(machine); }
  void save(const VmHandle& vm, const fs::path& state_file, const Deadline& deadline) override {
    facet().save(vm, state_file, deadline);
  }
  std::chrono::microseconds checkpoint(const VmHandle& vm, const fs::path& state_file,
                                       const std::map<std::string, fs::path>& overlays, const Deadline& deadline) override {
    return facet().checkpoint(vm, breaks ? state_file / "no-such-place" : state_file, overlays, deadline);
  }
  FileDescriptor connect_agent(const VmHandle& vm, const Deadline& deadline) override {
    return facet().connect_agent(vm, deadline);
  }
  TemplateFacet& facet() const { return *qemu_.templates(); }

  mutable QemuDriver qemu_;
};

TEST(FailedCheckpointTest, LeavesTheVmAndItsDiskWhole) {
  testing::require_image("tiny");
  if (::testing::Test::IsSkipped()) return;
  const auto driver = std::make_shared<FullDiskDriver>();
  Vm vm = Vm::boot({}, {.driver = driver});
  vm.run("echo before > /root/file && sync");
  driver->breaks = true;
  EXPECT_THROW((void)vm.fork(), Error);
  EXPECT_THROW(vm.snapshot("moment"), Error);
  EXPECT_THROW(vm.restore("moment"), Error);
  // In blocks that nothing is written to later, and which are read from the disk again.
  vm.run("dd if=/dev/zero bs=64k count=8 2> /dev/null | tr '\\0' a > /root/between && sync");
  const std::string read = "sync; echo 3 > /proc/sys/vm/drop_caches; cat /root/file; tr -d a < /root/between | wc -c";
  driver->breaks = false;
  // Children have what was written since, and so has the VM when it boots.
  Vm child = vm.fork();
  EXPECT_EQ(child.run(read).out, "before\n0\n");
  vm.run("echo later >> /root/file && sync");
  vm.power_off();
  vm.start();
  EXPECT_EQ(vm.run(read).out, "before\nlater\n0\n");
  EXPECT_EQ(child.run(read).out, "before\n0\n");
  for (const auto& file : fs::directory_iterator(vm.handle().work_dir))
    EXPECT_NE(file.path().extension(), ".state") << file.path();
}

}  // namespace
}  // namespace vmtest
