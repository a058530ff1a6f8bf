#include "network/tap.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "network/neighbours.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest {
namespace {

constexpr const char* kMac = "52:54:00:12:34:56";

TEST(TapSubnetTest, FirstOnes) {
  EXPECT_EQ(tap_subnet(0), (TapSubnet{0xC6120000, "198.18.0.1", "198.18.0.2"}));
  EXPECT_EQ(tap_subnet(1), (TapSubnet{0xC6130000, "198.19.0.1", "198.19.0.2"}));
  EXPECT_EQ(tap_subnet(2), (TapSubnet{0xC6120004, "198.18.0.5", "198.18.0.6"}));
}

TEST(TapSubnetTest, LastOneEndsTheRange) {
  EXPECT_EQ(tap_subnet(kTapSubnets - 1).guest, "198.19.255.254");
  EXPECT_THROW((void)tap_subnet(kTapSubnets), Error);
}

constexpr const char* kRoutes =
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    "eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    "tun0\t000012C6\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

TEST(RoutesTest, ReadsAllButDefaultRoutes) {
  EXPECT_EQ(parse_routes(kRoutes), (std::vector<Route>{{0xC0A80000, 0xFFFFFF00}, {0xC6120000, 0xFFFF0000}}));
}

TEST(RoutesTest, NothingInEmptyText) { EXPECT_TRUE(parse_routes("").empty()); }

TEST(RoutesTest, CollidesWithWideRoutesOnly) {
  EXPECT_TRUE(collides(tap_subnet(0), parse_routes(kRoutes)));
  EXPECT_FALSE(collides(tap_subnet(1), parse_routes(kRoutes)));
}

TEST(RoutesTest, CollidesWithARouteToOneAddress) {
  EXPECT_TRUE(collides(tap_subnet(0), {{0xC6120002, 0xFFFFFFFF}}));
  EXPECT_FALSE(collides(tap_subnet(2), {{0xC6120002, 0xFFFFFFFF}}));
}

TEST(ArpTableTest, FindsTheWholeMacOnly) {
  constexpr const char* kTable =
      "IP address       HW type     Flags       HW address            Mask     Device\n"
      "198.18.0.6       0x1         0x2         52:54:00:12:34:57     *        vmtest1\n"
      "198.18.0.2       0x1         0x2         52:54:00:12:34:56     *        vmtest0\n";
  EXPECT_EQ(find_in_arp_table(kTable, kMac), "198.18.0.2");
  EXPECT_EQ(find_in_arp_table(kTable, "52:54:00:12:34:5"), std::nullopt);
}

TEST(ArpTableTest, PassesOverIncompleteEntries) {
  EXPECT_EQ(find_in_arp_table("198.18.0.2 0x1 0x0 52:54:00:12:34:56 * vmtest0\n", kMac), std::nullopt);
}

TEST(NeighboursTest, FindsByMacWhateverItsCase) {
  EXPECT_EQ(find_in_neighbours("198.18.0.2 dev vmtest0 lladdr 52:54:00:AB:cd:EF REACHABLE\n", "52:54:00:ab:cd:ef"), "198.18.0.2");
}

TEST(NeighboursTest, PrefersIpv4AndPassesOverLinkLocal) {
  constexpr const char* kTable =
      "fe80::1 dev vmtest0 lladdr 52:54:00:12:34:56 STALE\n"
      "fd00::2 dev vmtest0 lladdr 52:54:00:12:34:56 router STALE\n"
      "198.18.0.2 dev vmtest0 lladdr 52:54:00:12:34:56 STALE\n";
  EXPECT_EQ(find_in_neighbours(kTable, kMac), "198.18.0.2");
}

TEST(NeighboursTest, PassesOverFailedEntries) {
  EXPECT_EQ(find_in_neighbours("198.18.0.2 dev vmtest0 FAILED\n198.18.0.3 dev vmtest0 lladdr 52:54:00:12:34:56 FAILED\n", kMac),
            std::nullopt);
}

TEST(DnsmasqLeasesTest, TakesTheLeaseThatLastsLongest) {
  constexpr const char* kLeases =
      "1700000100 52:54:00:12:34:56 192.168.122.10 old *\n"
      "1700000900 52:54:00:12:34:56 192.168.122.11 new ff:00:01\n"
      "1700000900 52:54:00:12:34:57 192.168.122.12 other *\n";
  EXPECT_EQ(find_in_dnsmasq_leases(kLeases, kMac, 1700000000), "192.168.122.11");
}

TEST(DnsmasqLeasesTest, PassesOverExpiredLeases) {
  EXPECT_EQ(find_in_dnsmasq_leases("1700000100 52:54:00:12:34:56 192.168.122.10 a *\n", kMac, 1700000200), std::nullopt);
}

TEST(DnsmasqLeasesTest, ZeroLastsForEver) {
  EXPECT_EQ(find_in_dnsmasq_leases("0 52:54:00:12:34:56 192.168.122.10 a *\n", kMac, 1700000200), "192.168.122.10");
}

TEST(DnsmasqLeasesTest, GarbageIsNoLease) {
  EXPECT_EQ(find_in_dnsmasq_leases("duid 00:01:00\nx 52:54:00:12:34:56 192.168.122.10 a *\n1 2\n", kMac, 0), std::nullopt);
}

constexpr const char* kBootpdLeases =
    "{\n\tname=web\n\tip_address=192.168.64.2\n\thw_address=1,52:54:0:12:34:57\n\tidentifier=1,52:54:0:12:34:57\n\tlease="
    "0x65540000\n}\n"
    "{\n\tname=the mac\n\tip_address=192.168.64.3\n\thw_address=1,52:54:0:12:34:56\n\tlease=0x65530000\n}\n"
    "{\n\tip_address=192.168.64.4\n\thw_address=1,52:54:0:12:34:56\n\tlease=0x65540000\n}\n"
    "{\n\tip_address=192.168.64.5\n\thw_address=ff,52:54:0:12:34:56\n\tlease=0x65550000\n}\n";

TEST(BootpdLeasesTest, TakesTheLastingOneOfAMac) {
  EXPECT_EQ(find_in_bootpd_leases(kBootpdLeases, kMac, 1000), "192.168.64.4");
  EXPECT_EQ(find_in_bootpd_leases(kBootpdLeases, "52:54:00:12:34:57", 1000), "192.168.64.2");
}

TEST(BootpdLeasesTest, MacsAreComparedAsMacOsWritesThem) {
  const std::string leases = "{\n\tip_address=192.168.64.9\n\thw_address=1,2:0:a:b0:0:c\n\tlease=0x65540000\n}\n";
  EXPECT_EQ(find_in_bootpd_leases(leases, "02:00:0A:b0:00:0c", 1000), "192.168.64.9");
  EXPECT_EQ(find_in_bootpd_leases(leases, "02:00:0a:b0:00:cc", 1000), std::nullopt);
}

TEST(BsdArpTest, FindsACardThatIsThere) {
  constexpr const char* kTable =
      "? (192.168.64.3) at 52:54:0:12:34:56 on bridge100 ifscope [bridge]\n"
      "? (192.168.64.4) at (incomplete) on bridge100 ifscope [bridge]\nnonsense\n? () at 52:54:0:12:34:57 on en0\n";
  EXPECT_EQ(find_in_bsd_arp(kTable, kMac), "192.168.64.3");
  EXPECT_EQ(find_in_bsd_arp(kTable, "52:54:00:12:34:57"), std::nullopt);
}

TEST(BootpdLeasesTest, PassesOverExpiredLeases) {
  EXPECT_EQ(find_in_bootpd_leases(kBootpdLeases, kMac, 0x65535000), "192.168.64.4");
  EXPECT_EQ(find_in_bootpd_leases(kBootpdLeases, kMac, 0x65540000), std::nullopt);
}

TEST(BootpdLeasesTest, GarbageIsNoLease) {
  for (const char* text : {"", "}\n}\n", "{\n\thw_address=1,52:54:0:12:34:56\n\tlease=0x65540000\n}\n", "ip_address=192.168.64.4",
                           "{\n\tip_address=x\n\thw_address=1,52:54:0:12:34:56\n\tlease=0x65540000\n}\n",
                           "{\n\tip_address=192.168.64.4\n\thw_address=1,52:54:0:12:34:56\n}\n"})
    EXPECT_EQ(find_in_bootpd_leases(text, kMac, 0), std::nullopt) << text;
}

/// In a network namespace of its own, so that the host's network stays as it is.
class TapDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0 || ::unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "a network namespace needs root";
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) GTEST_SKIP() << "there is no /dev/net/tun";
  }
};

TEST_F(TapDeviceTest, IsGoneWithItsDescriptor) {
  std::string name;
  {
    const TapDevice tap = make_tap();
    name = tap.name;
    EXPECT_NE(::if_nametoindex(name.c_str()), 0U);
  }
  EXPECT_EQ(::if_nametoindex(name.c_str()), 0U);
}

TEST_F(TapDeviceTest, IsFoundByItsDescriptor) {
  const TapDevice tap = make_tap("vmtestnamed");
  EXPECT_EQ(tap.name, "vmtestnamed");
  EXPECT_EQ(tap_of_descriptor(::getpid(), std::to_string(tap.descriptor.get())), "vmtestnamed");
  EXPECT_EQ(tap_of_descriptor(::getpid(), "0"), "");
  EXPECT_EQ(tap_of_descriptor(::getpid(), "99999"), "");
}

TEST_F(TapDeviceTest, GetsItsSubnetsAddressAndRoute) {
  const TapDevice tap = make_tap();
  const TapNetwork network = take_tap_network();
  EXPECT_EQ(network.subnet, tap_subnet(0));
  configure_interface(tap.name, network.subnet.host, kTapPrefixLength);
  EXPECT_TRUE(collides(network.subnet, parse_routes(read_file("/proc/thread-self/net/route"))));
}

TEST_F(TapDeviceTest, TwoVmsGetTwoNetworksAndNames) {
  const TapNetwork first = take_tap_network();
  const TapNetwork second = take_tap_network();
  EXPECT_NE(first.subnet, second.subnet);
  EXPECT_EQ(tap_name_of(first.subnet.host), "vmtestc6120001");
  EXPECT_EQ(tap_name_of(second.subnet.host), "vmtestc6130001");
  EXPECT_EQ(host_mac_of(second.subnet.host), "02:00:c6:13:00:01");
}

TEST_F(TapDeviceTest, NetworkIsTakenAsLongAsAnyCopyOfItsClaimIsOpen) {
  std::optional<TapNetwork> first = take_tap_network();
  const FileDescriptor copy(::fcntl(first->claim.get(), F_DUPFD_CLOEXEC, 0));
  first.reset();
  EXPECT_EQ(take_tap_network().subnet, tap_subnet(1));
}

TEST_F(TapDeviceTest, GivenBackNetworkIsFree) {
  { const TapNetwork first = take_tap_network(); }
  EXPECT_EQ(take_tap_network().subnet, tap_subnet(0));
}

TEST_F(TapDeviceTest, PassesOverNetworksTheHostRoutes) {
  const TapDevice occupied = make_tap();
  configure_interface(occupied.name, "198.18.0.1", 24);
  EXPECT_EQ(take_tap_network().subnet, tap_subnet(1));
}

/// What this host itself knows of its neighbours, which is nothing but what a test makes it.
class AddressOfMacTest : public TapDeviceTest {
 protected:
  void SetUp() override {
    TapDeviceTest::SetUp();
    if (IsSkipped()) return;
    if (!find_program("ip")) GTEST_SKIP() << "there is no `ip` (Debian: apt-get install iproute2)";
    tap_ = make_tap();
    configure_interface(tap_.name, "198.18.0.1", kTapPrefixLength);
  }
  void add_neighbour(const std::string& address) const {
    run_tool({"ip", "neigh", "add", address, "lladdr", kMac, "dev", tap_.name, "nud", "permanent"},
             Deadline::after(std::chrono::seconds(20)));
  }

  TapDevice tap_;
};

TEST_F(AddressOfMacTest, IsFoundInTheArpTable) {
  EXPECT_EQ(find_address_of(kMac), std::nullopt);
  add_neighbour("198.18.0.2");
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nonexistent", 1);  // `ip` would find it as well
  const auto found = find_address_of(kMac);
  const auto other = find_address_of("52:54:00:12:34:57");
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(found, "198.18.0.2");
  EXPECT_EQ(other, std::nullopt);
}

TEST_F(AddressOfMacTest, IsFoundByIpWhereTheArpTableHasIpv4Only) {
  if (::access("/proc/sys/net/ipv6", F_OK) != 0) GTEST_SKIP() << "this kernel has no IPv6";
  add_neighbour("fd00::2");
  EXPECT_EQ(find_address_of(kMac), "fd00::2");
}

TEST_F(AddressOfMacTest, IsFoundInDnsmasqsLeases) {
  constexpr const char* kFolder = "/var/lib/misc";
  if (::access(kFolder, F_OK) != 0) GTEST_SKIP() << "there is no " << kFolder;
  // In a mount namespace of its own, too: the host's leases stay as they are.
  if (::unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "a mount namespace needs root";
  ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  ASSERT_EQ(::mount("tmpfs", kFolder, "tmpfs", 0, nullptr), 0);
  write_file(std::filesystem::path(kFolder) / "other.leases", std::string("0 ") + kMac + " 192.168.122.9 a *\n");
  EXPECT_EQ(find_address_of(kMac), std::nullopt) << "that is nobody's";
  write_file(std::filesystem::path(kFolder) / "dnsmasq.leases", std::string("0 ") + kMac + " 192.168.122.10 a *\n");
  EXPECT_EQ(find_address_of(kMac), "192.168.122.10");
}

TEST_F(TapDeviceTest, UnknownNameIsAnError) { EXPECT_THROW((void)open_tap("nosuchtap"), Error); }

TEST_F(TapDeviceTest, TapInUseIsAnError) {
  const TapDevice tap = make_tap();
  EXPECT_THROW((void)open_tap(tap.name), Error);
}

}  // namespace
}  // namespace vmtest
