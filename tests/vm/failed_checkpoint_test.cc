// A fork that comes to nothing after the disks were told to go on in new files.

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "altered_qemu.h"
#include "image.h"
#include "vmtest/error.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

TEST(FailedCheckpointTest, LeavesTheVmAndItsDiskWhole) {
  testing::require_image("tiny");
  if (::testing::Test::IsSkipped()) return;
  const auto driver = std::make_shared<testing::AlteredQemu>();
  bool disk_is_full = false;
  driver->instead_of_checkpoint = [&](TemplateFacet& qemu, const VmHandle& handle, const fs::path& state_file,
                                      const std::map<std::string, fs::path>& overlays, const Deadline& deadline) {
    // QEMU has switched the disks by the time that it cannot write.
    return qemu.checkpoint(handle, disk_is_full ? state_file / "no-such-place" : state_file, overlays, deadline);
  };
  Vm vm = Vm::boot({}, {.driver = driver});
  vm.run("echo before > /root/file && sync");
  disk_is_full = true;
  EXPECT_THROW((void)vm.fork(), Error);
  EXPECT_THROW(vm.snapshot("moment"), Error);
  EXPECT_THROW(vm.restore("moment"), Error);
  // In blocks that nothing is written to later, and which are read from the disk again.
  vm.run("dd if=/dev/zero bs=64k count=8 2> /dev/null | tr '\\0' a > /root/between && sync");
  const std::string read = "sync; echo 3 > /proc/sys/vm/drop_caches; cat /root/file; tr -d a < /root/between | wc -c";
  disk_is_full = false;
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
