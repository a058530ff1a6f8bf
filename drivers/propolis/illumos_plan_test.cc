#include "illumos_plan.h"

#include <gtest/gtest.h>

#include "vmtest/error.h"

namespace vmtest::propolis {
namespace {

using Steps = std::vector<Step>;

const LinkPlan kLink{.name = "vmtestc6120001", .mac_address = "52:54:00:12:34:56", .host_address = "198.18.0.1/30"};

TEST(PropolisHostPlan, TapCarriesTheGuestsAddress) {
  EXPECT_EQ(tap_steps(kLink), (Steps{{{"ip", "tuntap", "add", "dev", "vmtestc6120001", "mode", "tap"},
                                      {"ip", "link", "delete", "dev", "vmtestc6120001"},
                                      {"ip", "-brief", "link", "show"},
                                      "vmtestc6120001"},
                                     {{"ip", "link", "set", "dev", "vmtestc6120001", "alias", "52:54:00:12:34:56"}},
                                     {{"ip", "address", "add", "198.18.0.1/30", "dev", "vmtestc6120001"}},
                                     {{"ip", "link", "set", "dev", "vmtestc6120001", "up"}}}));
}

TEST(PropolisIllumosPlan, VnicIsOverALinkThatGetsTheHostsAddress) {
  EXPECT_EQ(vnic_steps(kLink, "igb0"),
            (Steps{{{"dladm", "create-vnic", "-t", "-l", "igb0", "-m", "52:54:00:12:34:56", "vmtestc6120001"},
                    {"dladm", "delete-vnic", "-t", "vmtestc6120001"},
                    {"dladm", "show-vnic", "-p", "-o", "link"},
                    "vmtestc6120001"},
                   {{"ipadm", "create-addr", "-t", "-T", "static", "-a", "198.18.0.1/30", "igb0/vmtestc6120001"},
                    {"ipadm", "delete-addr", "igb0/vmtestc6120001"},
                    {"ipadm", "show-addr", "-p", "-o", "addrobj"},
                    "igb0/vmtestc6120001"}}));
}

const ZonePlan kZone{.zone = "t1",
                     .brand = "nebula-vm",
                     .zonepath = "/vms/t1/zone",
                     .vnic = "vmtest0",
                     .snapshot = "rpool/images/tiny@latest",
                     .dataset = "rpool/vms/t1"};

TEST(PropolisIllumosPlan, ZoneIsMadeInOrderAndUnmade) {
  const std::vector<std::string> zones = {"zoneadm", "list", "-c"};
  EXPECT_EQ(zone_steps(kZone),
            (Steps{{{"zfs", "clone", "rpool/images/tiny@latest", "rpool/vms/t1"},
                    {"zfs", "destroy", "-r", "rpool/vms/t1"},
                    {"zfs", "list", "-H", "-o", "name", "-t", "volume"},
                    "rpool/vms/t1"},
                   {{"zonecfg", "-z", "t1",
                     "create -b; set brand=nebula-vm; set zonepath=/vms/t1/zone; set ip-type=exclusive; add net; set "
                     "physical=vmtest0; end; add device; set match=/dev/zvol/rdsk/rpool/vms/t1; end; commit"},
                    {"zonecfg", "-z", "t1", "delete", "-F"},
                    zones,
                    "t1"},
                   {{"zoneadm", "-z", "t1", "install"}, {"zoneadm", "-z", "t1", "uninstall", "-F"}, zones, "t1"},
                   {{"zoneadm", "-z", "t1", "boot"}, {"zoneadm", "-z", "t1", "halt"}, zones, "t1"}}));
}

TEST(PropolisIllumosPlan, WordsThatZonecfgWouldTakeApartAreRefused) {
  ZonePlan odd = kZone;
  odd.brand = "x; add device";
  EXPECT_THROW((void)zone_steps(odd), Error);
  odd = kZone;
  odd.zonepath = "/vms/a b";
  EXPECT_THROW((void)zone_steps(odd), Error);
  odd = kZone;
  odd.vnic = "";
  EXPECT_THROW((void)zone_steps(odd), Error);
}

}  // namespace
}  // namespace vmtest::propolis
