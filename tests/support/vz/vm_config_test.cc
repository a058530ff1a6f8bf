#include "vm_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api_error.h"

namespace vmtest::vz {
namespace {

using nlohmann::json;

json linux_vm() {
  return {
      {"boot_loader", {{"type", "linux"}, {"kernel", "/k"}, {"command_line", "console=hvc0"}}}, {"cpus", 2}, {"memory_mib", 512}};
}

json mac_vm() {
  return {{"boot_loader", {{"type", "macos"}}},
          {"platform", {{"type", "mac"}, {"hardware_model", "/m"}, {"machine_identifier", "/i"}, {"auxiliary_storage", "/a"}}},
          {"cpus", 2},
          {"memory_mib", 4096}};
}

/// What the refusal of a configuration says; empty when it is taken.
std::string refusal(const json& body) {
  try {
    (void)parse_vm_config(body);
    return {};
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), kBadRequest);
    return error.what();
  }
}

json with(json body, const std::string& pointer, const json& value) {
  body[json::json_pointer(pointer)] = value;
  return body;
}

TEST(VmConfigTest, TakesTheLeast) {
  const VmConfig config = parse_vm_config(linux_vm());
  EXPECT_EQ(config.boot_loader.kind, BootLoader::Kind::Linux);
  EXPECT_EQ(config.boot_loader.kernel, "/k");
  EXPECT_EQ(config.boot_loader.command_line, "console=hvc0");
  EXPECT_EQ(config.cpus, 2U);
  EXPECT_EQ(config.memory_mib, 512U);
  EXPECT_TRUE(config.entropy);
  EXPECT_FALSE(config.balloon);
  EXPECT_EQ(config.serial.kind, Serial::Kind::None);
}

TEST(VmConfigTest, TakesADiskOfEachKind) {
  const json disks = json::array({{{"image", "/a"}},
                                  {{"type", "nvme"}, {"image", "/b"}, {"caching", "uncached"}, {"synchronization", "full"}},
                                  {{"type", "usb"}, {"nbd", "nbd://h:1/x"}, {"timeout_ms", 5}, {"read_only", true}},
                                  {{"block_device", "/dev/disk4"}, {"synchronization", "none"}, {"id", "data"}}});
  const VmConfig config = parse_vm_config(with(linux_vm(), "/disks", disks));
  ASSERT_EQ(config.disks.size(), 4U);
  EXPECT_EQ(config.disks[0].caching, Disk::Caching::Cached);
  EXPECT_EQ(config.disks[0].synchronization, Disk::Synchronization::Fsync);
  EXPECT_EQ(config.disks[1].kind, Disk::Kind::Nvme);
  EXPECT_EQ(config.disks[1].caching, Disk::Caching::Uncached);
  EXPECT_EQ(config.disks[1].synchronization, Disk::Synchronization::Full);
  EXPECT_EQ(config.disks[2].source, Disk::Source::Nbd);
  EXPECT_EQ(config.disks[2].timeout_ms, 5U);
  EXPECT_EQ(config.disks[2].synchronization, Disk::Synchronization::Full);
  EXPECT_TRUE(config.disks[2].read_only);
  EXPECT_EQ(config.disks[3].source, Disk::Source::BlockDevice);
  EXPECT_EQ(config.disks[3].synchronization, Disk::Synchronization::None);
  EXPECT_EQ(config.disks[3].id, "data");
}

TEST(VmConfigTest, TakesANicOfEachKind) {
  const json nics = json::array({{{"type", "nat"}, {"mac", "52:54:00:00:00:01"}},
                                 {{"type", "file-handle"}, {"fd", 7}, {"mtu", 9000}},
                                 {{"type", "socket"}, {"local", "/l"}, {"remote", "/r"}},
                                 {{"type", "bridged"}, {"interface", "en0"}}});
  const VmConfig config = parse_vm_config(with(linux_vm(), "/nics", nics));
  ASSERT_EQ(config.nics.size(), 4U);
  EXPECT_EQ(config.nics[0].mac, "52:54:00:00:00:01");
  EXPECT_EQ(config.nics[1].descriptor, 7);
  EXPECT_EQ(config.nics[1].mtu, 9000U);
  EXPECT_EQ(config.nics[2].remote, "/r");
  EXPECT_EQ(config.nics[3].interface, "en0");
}

TEST(VmConfigTest, TakesSharesPortsAndVsock) {
  json body = linux_vm();
  body["shares"] = json::parse(R"([{"type": "single", "tag": "a", "path": "/x", "read_only": true},
    {"type": "multiple", "tag": "b", "directories": {"one": {"path": "/1"}, "two": {"path": "/2", "read_only": true}}},
    {"type": "rosetta", "tag": "c", "install": true}])");
  body["console_ports"] = json::parse(R"([{"name": "org.vmtest.agent", "socket": "/p"}])");
  body["vsock"] = json::parse(R"({"socket": "/v", "listen_ports": [1, 4294967294]})");
  body["serial"] = json::parse(R"({"type": "socket", "socket": "/s", "log": "/log", "append": true})");
  const VmConfig config = parse_vm_config(body);
  ASSERT_EQ(config.shares.size(), 3U);
  EXPECT_TRUE(config.shares[0].directories[0].read_only);
  EXPECT_EQ(config.shares[1].directories[1].name, "two");
  EXPECT_TRUE(config.shares[2].install);
  EXPECT_EQ(config.console_ports[0].name, "org.vmtest.agent");
  EXPECT_EQ(config.vsock->listen_ports, (std::vector<std::uint32_t>{1, 4294967294}));
  EXPECT_EQ(config.serial.kind, Serial::Kind::Socket);
  EXPECT_TRUE(config.serial.append);
}

TEST(VmConfigTest, TakesAMac) {
  json body = mac_vm();
  body["graphics"] = {{"type", "mac"}, {"pixels_per_inch", 100}};
  body["keyboard"] = "mac";
  body["pointing"] = "mac-trackpad";
  body["audio"] = {{"input", true}};
  const VmConfig config = parse_vm_config(body);
  EXPECT_EQ(config.platform.kind, Platform::Kind::Mac);
  EXPECT_EQ(config.graphics->pixels_per_inch, 100U);
  EXPECT_EQ(config.keyboard, Keyboard::Mac);
  EXPECT_EQ(config.pointing, Pointing::MacTrackpad);
  EXPECT_TRUE(config.audio->input);
}

struct Refusal {
  const char* name;
  json body;
  const char* why;
};
void PrintTo(const Refusal& refusal, std::ostream* stream) { *stream << refusal.name; }

class VmConfigRefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(VmConfigRefusalTest, NamesThePlaceAndTheReason) {
  EXPECT_NE(refusal(GetParam().body).find(GetParam().why), std::string::npos) << refusal(GetParam().body);
}

const json kDisk = {{"image", "/a"}};

INSTANTIATE_TEST_SUITE_P(
    All, VmConfigRefusalTest,
    ::testing::Values(
        Refusal{"NoObject", json::array(), "the body: must be a JSON object"},
        Refusal{"NoBootLoader", {{"cpus", 1}, {"memory_mib", 1}}, "boot_loader: is missing"},
        Refusal{"UnknownBootLoader", with(linux_vm(), "/boot_loader/type", "grub"),
                "boot_loader.type: must be one of linux, efi, macos"},
        Refusal{"NoKernel", with(linux_vm(), "/boot_loader", {{"type", "linux"}}), "boot_loader.kernel: is missing"},
        Refusal{"RelativeKernel", with(linux_vm(), "/boot_loader/kernel", "k"), "boot_loader.kernel: must be an absolute path"},
        Refusal{"NumberAsPath", with(linux_vm(), "/boot_loader/kernel", 1), "boot_loader.kernel: must be a string"},
        Refusal{"NullCharacter", with(linux_vm(), "/boot_loader/kernel", std::string("/a\0b", 4)), "null character"},
        Refusal{"LinuxKeyOfEfi", with(linux_vm(), "/boot_loader/variable_store", "/v"),
                "boot_loader.variable_store: is not known"},
        Refusal{"NoVariableStore", with(linux_vm(), "/boot_loader", {{"type", "efi"}}), "boot_loader.variable_store: is missing"},
        Refusal{"NoCpus", with(linux_vm(), "/cpus", 0), "cpus: must be a whole number from 1"},
        Refusal{"NegativeCpus", with(linux_vm(), "/cpus", -1), "cpus: must be a whole number"},
        Refusal{"FractionOfCpus", with(linux_vm(), "/cpus", 1.5), "cpus: must be a whole number"},
        Refusal{"MemoryAsText", with(linux_vm(), "/memory_mib", "512"), "memory_mib: must be a whole number"},
        Refusal{"UnknownKey", with(linux_vm(), "/memory", 512), "memory: is not known here; known are"},
        Refusal{"DisksAsObject", with(linux_vm(), "/disks", json::object()), "disks: must be an array"},
        Refusal{"DiskOfNothing", with(linux_vm(), "/disks", json::array({json::object()})), "disks[0].image: exactly one of"},
        Refusal{"DiskOfTwo", with(linux_vm(), "/disks", json::array({{{"image", "/a"}, {"nbd", "nbd://x"}}})), "exactly one of"},
        Refusal{"UnknownDisk", with(linux_vm(), "/disks", json::array({{{"type", "scsi"}, {"image", "/a"}}})), "disks[0].type"},
        Refusal{"UnknownCaching", with(linux_vm(), "/disks", json::array({kDisk, {{"image", "/a"}, {"caching", "fast"}}})),
                "disks[1].caching: must be one of automatic, uncached, cached"},
        Refusal{"FsyncOfNbd", with(linux_vm(), "/disks", json::array({{{"nbd", "nbd://x"}, {"synchronization", "fsync"}}})),
                "disks[0].synchronization: must be one of full, none"},
        Refusal{"HttpAsNbd", with(linux_vm(), "/disks", json::array({{{"nbd", "http://x"}}})), "disks[0].nbd: must be a URL"},
        Refusal{"LongDiskId", with(linux_vm(), "/disks", json::array({{{"image", "/a"}, {"id", "123456789012345678901"}}})),
                "disks[0].id: must be 1 to 20"},
        Refusal{"TwiceTheDiskId",
                with(linux_vm(), "/disks", json::array({{{"image", "/a"}, {"id", "x"}}, {{"image", "/b"}, {"id", "x"}}})),
                "disks: 'x' stands there twice"},
        Refusal{"MulticastMac", with(linux_vm(), "/nics", json::array({{{"type", "nat"}, {"mac", "53:54:00:00:00:01"}}})),
                "nics[0].mac"},
        Refusal{
            "TwiceTheMac",
            with(linux_vm(), "/nics",
                 json::array({{{"type", "nat"}, {"mac", "52:54:00:00:00:0a"}}, {{"type", "nat"}, {"mac", "52:54:00:00:00:0A"}}})),
            "nics: MAC"},
        Refusal{"NicWithoutDescriptor", with(linux_vm(), "/nics", json::array({{{"type", "file-handle"}}})),
                "nics[0].fd: is missing"},
        Refusal{"StandardDescriptor", with(linux_vm(), "/nics", json::array({{{"type", "file-handle"}, {"fd", 1}}})),
                "nics[0].fd: must be"},
        Refusal{"SmallMtu", with(linux_vm(), "/nics", json::array({{{"type", "file-handle"}, {"fd", 5}, {"mtu", 100}}})),
                "nics[0].mtu"},
        Refusal{"MtuOfNat", with(linux_vm(), "/nics", json::array({{{"type", "nat"}, {"mtu", 1500}}})),
                "nics[0].mtu: is not known"},
        Refusal{"LongSocketPath", with(linux_vm(), "/vsock", {{"socket", "/" + std::string(150, 'x')}}),
                "vsock.socket: has 151 bytes"},
        Refusal{"TwiceTheSocket",
                with(with(linux_vm(), "/vsock", {{"socket", "/s"}}), "/serial", {{"type", "socket"}, {"socket", "/s"}}),
                "sockets: '/s'"},
        Refusal{"SerialWithoutLog", with(linux_vm(), "/serial", {{"type", "file"}}), "serial.log: is missing"},
        Refusal{"PortsOfOneName",
                with(linux_vm(), "/console_ports",
                     json::array({{{"name", "p"}, {"socket", "/1"}}, {{"name", "p"}, {"socket", "/2"}}})),
                "console_ports: name: 'p'"},
        Refusal{"ListenPortsOfText", with(linux_vm(), "/vsock", {{"socket", "/s"}, {"listen_ports", json::array({"x"})}}),
                "vsock.listen_ports: must hold whole numbers"},
        Refusal{"NoTag", with(linux_vm(), "/shares", json::array({{{"type", "single"}, {"tag", ""}, {"path", "/x"}}})),
                "shares[0].tag"},
        Refusal{"NoDirectories",
                with(linux_vm(), "/shares", json::array({{{"type", "multiple"}, {"tag", "a"}, {"directories", json::object()}}})),
                "shares[0].directories: must be a JSON object with one entry"},
        Refusal{"SilentSound", with(linux_vm(), "/audio", {{"output", false}}), "audio.output: a sound device needs"},
        Refusal{"BalloonAsText", with(linux_vm(), "/balloon", "yes"), "balloon: must be true or false"},
        Refusal{"MacPlatformOfLinux", with(linux_vm(), "/platform", mac_vm()["platform"]), "platform: boot loader macos needs"},
        Refusal{"GenericPlatformOfMacOs", with(mac_vm(), "/platform", {{"type", "generic"}}),
                "platform: boot loader macos needs"},
        Refusal{"NvmeOfMac", with(mac_vm(), "/disks", json::array({{{"type", "nvme"}, {"image", "/a"}}})),
                "nvme needs platform generic"},
        Refusal{"MacGraphicsOfLinux", with(linux_vm(), "/graphics", {{"type", "mac"}}), "graphics: type mac needs platform mac"},
        Refusal{"MacKeyboardOfLinux", with(linux_vm(), "/keyboard", "mac"), "keyboard: mac needs platform mac"},
        Refusal{"TrackpadOfLinux", with(linux_vm(), "/pointing", "mac-trackpad"), "pointing: mac-trackpad needs platform mac"}),
    [](const auto& refused) { return refused.param.name; });

TEST(UsbDiskTest, NeedsAnId) {
  EXPECT_EQ(parse_usb_disk({{"image", "/a"}, {"id", "x"}}).kind, Disk::Kind::Usb);
  EXPECT_THROW((void)parse_usb_disk({{"image", "/a"}}), ApiError);
  EXPECT_THROW((void)parse_usb_disk({{"image", "/a"}, {"id", "x"}, {"type", "nvme"}}), ApiError);
}

TEST(MacAddressTest, IsOfOneStation) {
  EXPECT_TRUE(is_unicast_mac("52:54:00:12:34:56"));
  EXPECT_FALSE(is_unicast_mac("01:00:5e:00:00:01"));
  EXPECT_FALSE(is_unicast_mac("00:00:00:00:00:00"));
  EXPECT_FALSE(is_unicast_mac("52-54-00-12-34-56"));
  EXPECT_FALSE(is_unicast_mac("52:54:00:12:34"));
}

}  // namespace
}  // namespace vmtest::vz
