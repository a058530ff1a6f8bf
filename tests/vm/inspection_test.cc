// What a VM tells from outside.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "vmtest/host/directories.h"
#include "vmtest/host/text.h"
#include "vmtest/router_driver.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

class InspectionTest : public VmTest {
 protected:
  InspectionTest() { ::setenv("VMTEST_SIM_CH_GUEST_DEBUG", "1", 1); }
  VmSpec spec() const override { return {.data_disks = {{.size_mib = 16}}, .hotplug_ports = 1}; }

  TemporaryDirectory folder_;
};

TEST_F(InspectionTest, DisksCountWhatTheGuestReadsAndWrites) {
  const std::string disk = "/dev/$(grep -lx data0 /sys/block/*/serial | cut -d/ -f4)";
  const std::uint64_t written = vm().counter("data0", "write_bytes");
  const std::uint64_t writes = vm().counter("data0", "write_ops");
  vm().run("dd if=/dev/zero of=" + disk + " bs=1M count=4 conv=notrunc,fsync");
  EXPECT_GE(vm().counter("data0", "write_bytes"), written + (4U << 20));
  EXPECT_GT(vm().counter("data0", "write_ops"), writes);
  const std::uint64_t read = vm().counter("data0", "read_bytes");
  vm().run("echo 3 > /proc/sys/vm/drop_caches; dd if=" + disk + " of=/dev/null bs=1M count=4");
  EXPECT_GE(vm().counter("data0", "read_bytes"), read + (4U << 20));
}

TEST_F(InspectionTest, CardsOnTapsCountFrames) {
  if (const Support tap = RouterDriver().support(Capability::Tap); !tap.supported()) GTEST_SKIP() << tap.why;
  const PluggedDevice card = vm().attach_nic(Network::Tap);
  const std::uint64_t sent = vm().counter("net-port0", "tx_frames");
  const std::uint64_t received = vm().counter("net-port0", "rx_bytes");
  vm().run("ping -c 3 -s 1000 -W 20 " + card.gateway);
  EXPECT_GE(vm().counter("net-port0", "tx_frames"), sent + 3);
  EXPECT_GE(vm().counter("net-port0", "rx_bytes"), received + 3000);
}

TEST_F(InspectionTest, InterruptReachesTheKernel) {
  vm().inject_nmi();
  vm().wait_until([&] { return vm().console().text().find("NMI received for unknown reason") != std::string::npos; }, 60s,
                  "the kernel to name the interrupt");
}

TEST_F(InspectionTest, PanicOnAnInterruptIsNamed) {
  vm().run("echo 1 > /proc/sys/kernel/unknown_nmi_panic");
  vm().inject_nmi();
  EXPECT_THROW(vm().wait_until([] { return false; }, 60s, "better times"), Error);
}

TEST_F(InspectionTest, DumpHasWhatIsInTheGuestsMemory) {
  const std::string secret = "kept-in-memory-" + random_hex(32);
  // In two pieces, so that no command line has the whole of it.
  vm().run("printf '%s%s' " + secret.substr(0, 20) + " " + secret.substr(20) + " > /run/secret");
  const std::filesystem::path core = folder_.path() / "core";
  try {
    vm().dump_memory(core);
  } catch (const Unsupported& reason) {
    GTEST_SKIP() << reason.what();  // a Cloud Hypervisor without guest_debug
  }
  EXPECT_TRUE(vm().exec("true").ok());
  std::ifstream file(core, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_GE(text.size(), 256U << 20);
  const std::boyer_moore_searcher searcher(secret.begin(), secret.end());
  EXPECT_NE(std::search(text.begin(), text.end(), searcher), text.end());
  EXPECT_THROW(vm().dump_memory(core), std::exception);
}

}  // namespace
}  // namespace vmtest
