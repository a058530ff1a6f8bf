// VMs that grow while they run.

#include "contract_fixture.h"

namespace vmtest::contract {

TEST_P(DriverContract, VcpusComeWithinTheMachinesRoom) {
  if (!driver_->support(Capability::CpuHotplug).supported()) GTEST_SKIP() << "it plugs no vCPUs in";
  const VmHandle vm = start_with_room();
  ResizeFacet& resizing = *driver_->resizing();
  EXPECT_EQ(resizing.size(vm, soon()).vcpus, 1U);
  resizing.resize_vcpus(vm, 3, soon());
  EXPECT_EQ(resizing.size(vm, soon()).vcpus, 3U);
  resizing.resize_vcpus(vm, 3, soon());
  const std::string why = failure_of([&] { resizing.resize_vcpus(vm, 4, soon()); });
  EXPECT_NE(why.find("cannot give VM \"probe\" 4 vCPUs"), std::string::npos) << why;
  EXPECT_NE(why.find("MachineConfig::max_vcpus"), std::string::npos) << why;
  EXPECT_THROW(resizing.resize_vcpus(vm, 0, soon()), Error);
  EXPECT_EQ(resizing.size(vm, soon()).vcpus, 3U);
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, MemoryStaysWithinTheMachinesRoom) {
  if (driver_->resizing() == nullptr) GTEST_SKIP() << "its VMs keep their size";
  const VmHandle vm = start_with_room();
  ResizeFacet& resizing = *driver_->resizing();
  const unsigned memory_mib = machine().memory_mib;
  EXPECT_EQ(resizing.size(vm, soon()).memory_mib, memory_mib);
  // Whether anything of it is taken is the guest's business, and here is none.
  EXPECT_NO_THROW(resizing.resize_memory(vm, memory_mib + 128, soon()));
  const std::string more = failure_of([&] { resizing.resize_memory(vm, memory_mib + 256, soon()); });
  EXPECT_NE(more.find("MachineConfig::max_memory_mib"), std::string::npos) << more;
  const std::string less = failure_of([&] { resizing.resize_memory(vm, memory_mib - 2, soon()); });
  EXPECT_NE(less.find("memory_balloon"), std::string::npos) << less;
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, MachineWithoutRoomKeepsItsSize) {
  if (driver_->resizing() == nullptr) GTEST_SKIP() << "its VMs keep their size";
  const VmHandle vm = start();
  ResizeFacet& resizing = *driver_->resizing();
  EXPECT_THROW(resizing.resize_vcpus(vm, 2, soon()), Error);
  EXPECT_THROW(resizing.resize_memory(vm, machine().memory_mib + 128, soon()), Error);
  EXPECT_EQ(resizing.size(vm, soon()), (MachineSize{1, machine().memory_mib}));
}

TEST_P(DriverContract, DiskGrows) {
  if (!driver_->support(Capability::DiskResize).supported()) GTEST_SKIP() << "its disks keep their size";
  MachineConfig with_disk = machine();
  with_disk.disks = {disk("data0")};
  with_disk.disks.front().hotplug_port.reset();
  const VmHandle vm = driver_->start(prepare(), with_disk);
  ResizeFacet& resizing = *driver_->resizing();
  resizing.resize_disk(vm, "data0", 3, soon());
  EXPECT_EQ(fs::file_size(with_disk.disks.front().path), 3U << 20);
  const std::string smaller = failure_of([&] { resizing.resize_disk(vm, "data0", 3, soon()); });
  EXPECT_NE(smaller.find("it has 3 MiB, and disks only grow"), std::string::npos) << smaller;
  const std::string unknown = failure_of([&] { resizing.resize_disk(vm, "data1", 4, soon()); });
  EXPECT_NE(unknown.find("has no disk \"data1\""), std::string::npos) << unknown;
  EXPECT_EQ(driver_->state(vm), VmState::Running);
}

TEST_P(DriverContract, SizeChangesWhileTheVmRunsOnly) {
  if (driver_->resizing() == nullptr) GTEST_SKIP() << "its VMs keep their size";
  for (const VmState state : resting_states()) {
    if (state == VmState::Running) continue;
    const VmHandle vm = in(state);
    EXPECT_THROW(driver_->resizing()->resize_vcpus(vm, 1, soon()), Error) << to_string(state);
    EXPECT_THROW(driver_->resizing()->resize_memory(vm, machine().memory_mib, soon()), Error) << to_string(state);
    EXPECT_THROW(driver_->resizing()->resize_disk(vm, "root", 1, soon()), Error) << to_string(state);
    EXPECT_THROW((void)driver_->resizing()->size(vm, soon()), Error) << to_string(state);
    EXPECT_EQ(driver_->state(vm), state);
    driver_->destroy(vm);
  }
}

}  // namespace vmtest::contract
