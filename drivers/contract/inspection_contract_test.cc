// Looks into a VM from outside: counters, NMI, dumps.

#include <fcntl.h>

#include <cstdlib>
#include <set>
#include <utility>

#include "contract_fixture.h"

namespace vmtest::contract {

TEST_P(DriverContract, DisksAndCardsAreCounted) {
  if (driver_->inspection() == nullptr) GTEST_SKIP() << "it counts nothing";
  if (driver_->disk_needs().formats.empty()) GTEST_SKIP() << "its counters are a script's";
  MachineConfig counted = machine();
  counted.disks = {disk("data0")};
  counted.disks.front().hotplug_port.reset();
  const VmHandle vm = driver_->start(prepare(), counted);
  std::set<std::pair<std::string, std::string>> names;
  const auto look = [&] {
    names.clear();
    for (const Counter& one : driver_->inspection()->counters(vm, soon())) names.emplace(one.device, one.name);
  };
  look();
  for (const char* name : {"read_bytes", "write_bytes", "read_ops", "write_ops"})
    EXPECT_EQ(names.count({"data0", name}), 1U) << name;
  for (const char* name : {"rx_bytes", "tx_bytes", "rx_frames", "tx_frames"})
    EXPECT_EQ(names.count({"net0", name}), GetParam().nic == NicKind::Tap ? 1U : 0U) << name;
  if (!driver_->support(Capability::NetworkHotplug).supported() || !driver_->support(Capability::Tap).supported()) return;
  (void)driver_->stop(vm, 0ms);
  counted.hotplug_ports = 2;
  (void)driver_->start(vm, counted);
  (void)driver_->inspection()->counters(vm, soon());
  (void)driver_->hotplug()->attach_nic(vm, card(1), soon());
  look();
  EXPECT_EQ(names.count({"net-port1", "rx_bytes"}), 1U);
}

TEST_P(DriverContract, RunningVmIsInterruptedOthersNot) {
  if (driver_->inspection() == nullptr) GTEST_SKIP() << "it cannot interrupt";
  for (const VmState state : resting_states()) {
    const VmHandle vm = in(state);
    if (state == VmState::Running) {
      EXPECT_NO_THROW(driver_->inspection()->inject_nmi(vm, soon()));
    } else {
      EXPECT_THROW(driver_->inspection()->inject_nmi(vm, soon()), Error) << to_string(state);
    }
    if (state != VmState::Running && state != VmState::Suspended) {
      EXPECT_THROW((void)driver_->inspection()->counters(vm, soon()), Error) << to_string(state);
    }
    EXPECT_EQ(driver_->state(vm), state);
    driver_->destroy(vm);
  }
}

TEST_P(DriverContract, MemoryIsDumpedAndTheVmStaysAsItIs) {
  if (driver_->inspection() == nullptr) GTEST_SKIP() << "it dumps no memory";
  if (driver_->disk_needs().formats.empty()) GTEST_SKIP() << "there is no memory";
  ::setenv("VMTEST_SIM_CH_GUEST_DEBUG", "1", 1);
  const fs::path core = folder_.path() / "core";
  const VmHandle vm = start();
  try {
    driver_->inspection()->dump_memory(vm, core, soon());
  } catch (const Unsupported& reason) {
    ASSERT_TRUE(GetParam().may_lack_dumps) << reason.what();
    GTEST_SKIP() << reason.what();
  }
  EXPECT_EQ(driver_->state(vm), VmState::Running);
  EXPECT_EQ(fs::status(core).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_GE(fs::file_size(core), std::uintmax_t{machine().memory_mib} << 20);
  const FileDescriptor file = open_file(core, O_RDONLY);
  char head[18] = {};
  ASSERT_EQ(::read(file.get(), head, sizeof head), static_cast<ssize_t>(sizeof head));
  EXPECT_EQ(std::string(head, 4),
            "\x7f"
            "ELF");
  EXPECT_EQ(head[16], 4) << "it is no core";
  EXPECT_THROW(driver_->inspection()->dump_memory(vm, core, soon()), Error) << "it was there";
  EXPECT_TRUE(fs::exists(core));
  EXPECT_THROW(driver_->inspection()->dump_memory(vm, folder_.path() / "none" / "core", soon()), Error);
  (void)driver_->suspend(vm);
  driver_->inspection()->dump_memory(vm, folder_.path() / "core2", soon());
  EXPECT_EQ(driver_->state(vm), VmState::Suspended);
}

}  // namespace vmtest::contract
