// A guest that moves into another process of its hypervisor while it runs.

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "vmtest/driver.h"
#include "vmtest/host/process.h"
#include "vmtest/ssh_session.h"
#include "vmtest/supervisor.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

/// A command that has the guest count, whoever is connected.
constexpr const char* kCount =
    "setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done' > /dev/null 2>&1 &";

class MigrationTest : public VmTest {
 protected:
  VmSpec spec() const override { return {.data_disks = {{.size_mib = 16, .serial = "data"}}, .hotplug_ports = 1}; }

  pid_t hypervisor() {
    const auto processes = SupervisorConnection::connect(vm().handle().supervisor_socket())->status().processes;
    EXPECT_EQ(processes.size(), 1U);
    return processes.begin()->second;
  }
  std::string boot_id() { return vm().run("cat /proc/sys/kernel/random/boot_id").out; }
  int count() {
    const std::string text = vm().run("cat /tmp/count 2> /dev/null || true").out;
    return text.empty() ? 0 : std::stoi(text);
  }
  void wait_for_more_than(int before) {
    vm().wait_until([&] { return count() > before; }, 20s, "the count to go on");
  }
};

TEST_F(MigrationTest, ProcessesMemoryAndDisksGoOn) {
  const std::string boot = boot_id();
  vm().run(std::string(kCount) +
           " echo kept > /tmp/memory; echo kept | dd of=/dev/vdc conv=notrunc; sync; echo kept > /etc/disk");
  wait_for_more_than(1);
  for (int time = 0; time < 2; ++time) {
    const int before = count();
    const pid_t first = hypervisor();
    const MigrationReport report = vm().migrate();
    EXPECT_NE(hypervisor(), first);
    EXPECT_FALSE(process_start_time(first));
    EXPECT_GT(report.total, 0ms);
    EXPECT_GT(report.memory_bytes.value_or(UINT64_MAX), std::uint64_t{1} << 20);
    EXPECT_LT(report.downtime.value_or(0ms), report.total);
    EXPECT_EQ(boot_id(), boot);
    wait_for_more_than(before);
  }
  vm().run("echo 3 > /proc/sys/vm/drop_caches");
  EXPECT_EQ(vm().run("cat /tmp/memory /etc/disk; head -c 5 /dev/vdc").out, "kept\nkept\nkept\n");
  // It is a VM like any other.
  vm().pause();
  vm().resume();
  wait_for_more_than(count());
  vm().reboot();
  EXPECT_NE(boot_id(), boot);
  EXPECT_EQ(vm().run("cat /etc/disk").out, "kept\n");
  vm().shutdown();
  vm().start();
  EXPECT_EQ(vm().run("cat /etc/disk").out, "kept\n");
}

TEST_F(MigrationTest, WhatWasPluggedInMovesToo) {
  const PluggedDevice disk = vm().attach_disk({.size_mib = 16});
  vm().run("echo moved | dd of=" + disk.name + " conv=notrunc && sync");
  (void)vm().migrate();
  vm().run("echo 3 > /proc/sys/vm/drop_caches");
  EXPECT_EQ(vm().run("head -c 5 " + disk.name).out, "moved");
  vm().detach(disk);
  EXPECT_NE(vm().attach_disk({.size_mib = 16}).name, "");
}

TEST_F(MigrationTest, MigratedVmForksAndAForkMigrates) {
  vm().run("echo parent > /tmp/memory");
  (void)vm().migrate();
  Vm child = vm().fork();
  (void)child.migrate();
  EXPECT_EQ(child.run("cat /tmp/memory").out, "parent\n");
  child.run("echo child > /tmp/memory");
  EXPECT_EQ(vm().run("cat /tmp/memory").out, "parent\n");
}

TEST_F(MigrationTest, SnapshotOfBeforeIsRestoredAfter) {
  vm().run("echo before > /tmp/memory");
  vm().snapshot("before");
  (void)vm().migrate();
  vm().run("echo after > /tmp/memory");
  vm().restore("before");
  EXPECT_EQ(vm().run("cat /tmp/memory").out, "before\n");
}

/// On a TAP of its own.
class TapMigrationTest : public MigrationTest {
 protected:
  VmSpec spec() const override { return {.network = Network::Tap}; }
};

TEST_F(TapMigrationTest, ConnectionsGoOn) {
  const auto process = vm().spawn({"cat"});
  const SshSession* session = &vm().ssh();
  (void)vm().migrate();
  EXPECT_EQ(&vm().ssh(), session);
  process->write("across\n", 20s);
  process->close_input();
  EXPECT_EQ(process->wait(20s).out, "across\n");
}

}  // namespace
}  // namespace vmtest
