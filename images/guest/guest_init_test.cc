#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "guest/console.h"
#include "guest/devices.h"
#include "guest/dhcp.h"
#include "guest/files.h"
#include "guest/init.h"
#include "guest/iso_reader.h"
#include "guest/json.h"
#include "guest/modules.h"
#include "guest/openssh_key.h"
#include "guest/seed.h"
#include "guest/services.h"
#include "guest/users.h"
#include "ssh_servers.h"
#include "vmtest/deadline.h"
#include "vmtest/host/process.h"

namespace vmtest::guest {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;
using std::string_literals::operator""s;

/// Gives a test a folder of its own.
class FolderTest : public testing::Test {
 protected:
  FolderTest() {
    std::string name = (fs::temp_directory_path() / "guest-init-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~FolderTest() override { fs::remove_all(folder_); }

  fs::path folder_;
};

/// What `parse` throws, or empty.
template <typename Parse>
std::string error_of(Parse&& parse) {
  try {
    parse();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return {};
}

// JSON

TEST(JsonTest, ReadsEveryType) {
  const Json json = Json::parse(R"( {"a": [1, -2.5e3, "x", true, null, {}], "b": "\u00e4\ud83d\ude00\n"} )");
  EXPECT_EQ(json.find("a")->array("a").size(), 6U);
  EXPECT_TRUE(json.find("a")->array("a")[3].boolean("a"));
  EXPECT_EQ(json.find("b")->string("b"), "\xC3\xA4\xF0\x9F\x98\x80\n");
}

TEST(JsonTest, TreatsNullMemberAsAbsent) { EXPECT_EQ(Json::parse(R"({"a": null})").find("a"), nullptr); }

TEST(JsonTest, NamesLineAndColumn) {
  EXPECT_EQ(error_of([] { (void)Json::parse("{\n  \"a\": tru\n}"); }), "JSON line 2 column 8: unknown word");
}

class BrokenJsonTest : public testing::TestWithParam<const char*> {};

TEST_P(BrokenJsonTest, IsRefused) { EXPECT_THROW((void)Json::parse(GetParam()), std::runtime_error); }

INSTANTIATE_TEST_SUITE_P(Texts, BrokenJsonTest,
                         testing::Values("", "{", "{\"a\":1,}", "[1,]", "[1 2]", "01", "1.", "-", "\"a", "\"\\x\"", "\"\\ud800\"",
                                         "\"\n\"", "{} {}", "{\"a\":1,\"a\":2}", "nul", "{a:1}", "'a'"));

TEST(JsonTest, RefusesDeepNesting) { EXPECT_THROW((void)Json::parse(std::string(100000, '[')), std::runtime_error); }

// Text helpers

TEST(Base64Test, DecodesWithPadding) {
  EXPECT_EQ(decode_base64("aGVsbG8="), "hello");
  EXPECT_EQ(decode_base64("aGVs\nbG8h\n"), "hello!");
  EXPECT_EQ(decode_base64("AP8="), "\0\xFF"s);
  EXPECT_EQ(decode_base64(""), "");
}

TEST(Base64Test, RefusesWhatIsNone) {
  EXPECT_EQ(decode_base64("aGVsbG8"), std::nullopt);
  EXPECT_EQ(decode_base64("aGVs bG8="), std::nullopt);
  EXPECT_EQ(decode_base64("aGV=sbG8"), std::nullopt);
  EXPECT_EQ(decode_base64("====="), std::nullopt);
}

TEST(EnvironmentTest, TakesQuotesOffAndNothingElse) {
  EXPECT_EQ(parse_environment("# comment\nA=\"x y\"\nB=plain\nC=\"with \"quotes\" in it\"\n=none\nbroken\nD=\n"),
            (std::vector<std::string>{"A=x y", "B=plain", "C=with \"quotes\" in it", "D="}));
}

TEST(CommandLineTest, SplitsWordsAndValues) {
  const auto words = parse_command_line("console=ttyS0 quiet root=LABEL=x\n");
  EXPECT_EQ(words.at("root"), "LABEL=x");
  EXPECT_EQ(words.at("quiet"), "");
}

TEST(ConsoleTest, KeepsMessagesToOneHarmlessLine) { EXPECT_EQ(one_line("  bad\n\x1b[31mnews\n"), "bad  [31mnews"); }

TEST(PasswdTest, SkipsBrokenLines) {
  const std::vector<Account> accounts =
      parse_passwd("root:x:0:0:root:/root:/bin/sh\nbroken\nx:y:a:b:c:d:e\ndev:x:1000:1001::/home/dev:/bin/sh\n");
  ASSERT_EQ(accounts.size(), 2U);
  EXPECT_EQ(accounts[1].gid, 1001U);
  EXPECT_EQ(accounts[1].home, "/home/dev");
}

// The seed

SeedTexts texts_of(std::string user_data) {
  return {R"({"instance-id": "i-1", "local-hostname": "guest"})", "#cloud-config\n" + std::move(user_data), std::nullopt};
}

TEST(SeedTest, ReadsWhatTheHostWrites) {
  const Seed seed = parse_seed(texts_of(R"({"hostname": "guest", "disable_root": false,
      "users": [{"name": "root", "ssh_authorized_keys": ["ssh-ed25519 AAAA a"], "lock_passwd": true}],
      "ssh_keys": {"ed25519_private": "KEY", "ed25519_public": "ssh-ed25519 AAAA"},
      "write_files": [{"path": "/etc/x", "content": "aGk=", "encoding": "b64", "permissions": "0750", "append": true}],
      "runcmd": ["plumbing", ["/bin/sh", "-c", "exit 0"]]})"));
  EXPECT_EQ(seed.instance_id, "i-1");
  EXPECT_EQ(seed.hostname, "guest");
  ASSERT_EQ(seed.users.size(), 1U);
  EXPECT_EQ(seed.users[0].authorized_keys, std::vector<std::string>{"ssh-ed25519 AAAA a"});
  EXPECT_EQ(seed.host_key, "KEY");
  ASSERT_EQ(seed.files.size(), 1U);
  EXPECT_EQ(seed.files[0].content, "hi");
  EXPECT_EQ(seed.files[0].permissions, 0750U);
  EXPECT_TRUE(seed.files[0].append);
  EXPECT_EQ(seed.commands, (std::vector<std::vector<std::string>>{{"/bin/sh", "-c", "exit 0"}}));
  EXPECT_FALSE(seed.cards.has_value());
}

TEST(SeedTest, ReadsNetworkConfig) {
  SeedTexts texts = texts_of("{}");
  texts.network_config = R"({"version": 2, "ethernets": {"nic0": {"match": {"macaddress": "52:54:00:AB:cd:01"}, "dhcp4": true},
      "nic1": {"dhcp4": false, "addresses": ["10.44.0.2/30"], "routes": [{"to": "default", "via": "10.44.0.1"}],
               "nameservers": {"addresses": ["10.44.0.1"]}}}})";
  const Seed seed = parse_seed(texts);
  ASSERT_EQ(seed.cards->size(), 2U);
  EXPECT_EQ(seed.cards->at(0).mac, "52:54:00:ab:cd:01");
  EXPECT_TRUE(seed.cards->at(0).dhcp4);
  EXPECT_EQ(seed.cards->at(1).addresses, std::vector<std::string>{"10.44.0.2/30"});
  EXPECT_EQ(seed.cards->at(1).routes.at(0).to, "0.0.0.0/0");
  EXPECT_EQ(seed.cards->at(1).nameservers, std::vector<std::string>{"10.44.0.1"});
}

struct BadSeed {
  const char* user_data;
  const char* error;
};

class BadSeedTest : public testing::TestWithParam<BadSeed> {};

TEST_P(BadSeedTest, IsNamed) {
  EXPECT_EQ(error_of([] { (void)parse_seed(texts_of(GetParam().user_data)); }), GetParam().error);
}

INSTANTIATE_TEST_SUITE_P(
    Texts, BadSeedTest,
    testing::Values(BadSeed{"[]", "seed user-data: the document is not an object"},
                    BadSeed{R"({"hostname": "a b"})", "seed user-data: hostname: \"a b\" is not a host name"},
                    BadSeed{R"({"users": {}})", "seed user-data: users is not a list"},
                    BadSeed{R"({"users": [{"name": "a:b"}]})", "seed user-data: users[].name: \"a:b\" is not a login name"},
                    BadSeed{R"({"write_files": [{"path": "x"}]})",
                            "seed user-data: write_files[].path: \"x\" is not an absolute path"},
                    BadSeed{R"({"write_files": [{"path": "/x", "content": "?", "encoding": "b64"}]})",
                            "seed user-data: write_files[].content of /x is not Base64"},
                    BadSeed{R"({"write_files": [{"path": "/x", "permissions": "rw"}]})",
                            "seed user-data: write_files[].permissions: \"rw\" is not an octal number"},
                    BadSeed{R"({"runcmd": [[]]})", "seed user-data: runcmd[] is an empty list"},
                    BadSeed{R"({"runcmd": [{}]})", "seed user-data: runcmd[] is not a list"}));

TEST(SeedTest, RequiresTheHeader) {
  EXPECT_EQ(error_of([] {
              (void)parse_seed({"{}", "{}", std::nullopt});
            }),
            "seed user-data: the first line is not #cloud-config");
}

// ISO 9660

class IsoTest : public FolderTest {
 protected:
  void SetUp() override {
    if (!find_program("genisoimage")) {
      GTEST_SKIP() << "genisoimage is not installed";
    }
  }

  /// An image with user-data of 5000 bytes and meta-data.
  Descriptor make_iso(const std::vector<std::string>& options) {
    const fs::path files = folder_ / "files";
    fs::create_directories(files);
    std::ofstream(files / "user-data") << std::string(5000, 'u');
    std::ofstream(files / "meta-data") << "meta";
    const std::string image = (folder_ / "seed.iso").string();
    std::vector<std::string> argv = {"genisoimage", "-quiet", "-o", image, "-V", "cidata"};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.push_back(files.string());
    run_tool(argv, Deadline::after(seconds(20)));
    return Descriptor(open(image.c_str(), O_RDONLY | O_CLOEXEC));
  }
};

TEST_F(IsoTest, ReadsRockRidgeNames) {
  const Descriptor file = make_iso({"-rock"});
  const std::optional<IsoReader> iso = IsoReader::open(file.get());
  ASSERT_TRUE(iso.has_value());
  EXPECT_EQ(iso->label(), "cidata");
  EXPECT_EQ(iso->find("user-data"), std::string(5000, 'u'));
  EXPECT_EQ(iso->find("meta-data"), "meta");
  EXPECT_EQ(iso->find("network-config"), std::nullopt);
}

TEST_F(IsoTest, ReadsJolietNames) {
  const Descriptor file = make_iso({"-joliet"});
  const std::optional<IsoReader> iso = IsoReader::open(file.get());
  ASSERT_TRUE(iso.has_value());
  EXPECT_EQ(iso->find("meta-data"), "meta");
}

TEST_F(IsoTest, SaysWhenAFileIsCutShort) {
  const Descriptor file = make_iso({"-joliet", "-rock", "-no-pad"});
  const std::optional<IsoReader> iso = IsoReader::open(file.get());
  ASSERT_TRUE(iso.has_value());
  fs::resize_file(folder_ / "seed.iso", fs::file_size(folder_ / "seed.iso") - 4096);
  EXPECT_THROW((void)iso->find("user-data"), std::runtime_error);
}

TEST_F(FolderTest, IsoReaderRefusesOtherFiles) {
  const std::string path = (folder_ / "zeros").string();
  write_file(path, std::string(1 << 17, '\0'), 0600);
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(IsoReader::open(file.get()).has_value());
}

// Host keys

class HostKeyTest : public FolderTest {};

TEST_F(HostKeyTest, IsReadByDropbear) {
  const auto dropbearkey = find_ssh_program("dropbearkey");
  if (!find_program("ssh-keygen") || !dropbearkey) {
    GTEST_SKIP()
        << "ssh-keygen and dropbearkey are needed as peers: install openssh-client, and name by VMTEST_TEST_SSH_SERVERS a "
           "folder that tests/support/fetch_ssh_servers has filled";
  }
  const std::string key = (folder_ / "key").string();
  run_tool({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key, "-C", "comment"}, Deadline::after(seconds(20)));
  write_file(key + ".dropbear", dropbear_key(read_file(key)), 0600);
  const auto libraries = ssh_server_libraries();
  const std::string library_path = libraries.empty() ? "" : libraries.front().parent_path().string();
  const std::string shown = run_tool({dropbearkey->string(), "-y", "-f", key + ".dropbear"}, Deadline::after(seconds(20)),
                                     {{"LD_LIBRARY_PATH", library_path}})
                                .out;
  const std::string line = read_file(key + ".pub");
  EXPECT_NE(shown.find(line.substr(0, line.rfind(' '))), std::string::npos) << shown;
}

TEST_F(HostKeyTest, OfAnotherTypeIsRefused) {
  if (!find_program("ssh-keygen")) {
    GTEST_SKIP() << "ssh-keygen is needed as a peer";
  }
  const std::string key = (folder_ / "key").string();
  run_tool({"ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key}, Deadline::after(seconds(20)));
  EXPECT_EQ(error_of([&] { (void)dropbear_key(read_file(key)); }), "the SSH host key is not an ed25519 key");
}

TEST_F(HostKeyTest, WithPassphraseIsRefused) {
  if (!find_program("ssh-keygen")) {
    GTEST_SKIP() << "ssh-keygen is needed as a peer";
  }
  const std::string key = (folder_ / "key").string();
  run_tool({"ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", key}, Deadline::after(seconds(20)));
  EXPECT_EQ(error_of([&] { (void)dropbear_key(read_file(key)); }), "the SSH host key has a passphrase");
}

TEST_F(HostKeyTest, CutShortIsRefused) {
  EXPECT_EQ(error_of([] {
              (void)dropbear_key(
                  "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5v\n-----END OPENSSH PRIVATE KEY-----\n");
            }),
            "the SSH host key is cut short");
}

TEST_F(HostKeyTest, GarbageIsRefused) {
  EXPECT_EQ(error_of([] { (void)dropbear_key("garbage"); }), "the SSH host key is not in OpenSSH's private key format");
}

// Kernel modules

TEST(ModuleTableTest, LoadsWhatIsNeededFirst) {
  const ModuleTable table("kernel/a.ko: kernel/b-x.ko kernel/c.ko\nkernel/b-x.ko: kernel/c.ko\nkernel/c.ko:\n", "");
  EXPECT_EQ(table.load_order("a"), (std::vector<std::string>{"kernel/c.ko", "kernel/b-x.ko", "kernel/a.ko"}));
  EXPECT_EQ(table.load_order("b_x"), (std::vector<std::string>{"kernel/c.ko", "kernel/b-x.ko"}));
  EXPECT_EQ(table.load_order("b-x"), table.load_order("b_x"));
  EXPECT_TRUE(table.load_order("d").empty());
}

TEST(ModuleTableTest, FindsByAlias) {
  const ModuleTable table("",
                          "alias virtio:d00000002v* virtio_blk\nalias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\n"
                          "alias acpi*:LNXPWRBN:* button\nalias fs-ext4 ext4\n");
  EXPECT_EQ(table.find_by_alias("virtio:d00000002v00001AF4"), std::vector<std::string>{"virtio_blk"});
  EXPECT_EQ(table.find_by_alias("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00"), std::vector<std::string>{"virtio_pci"});
  EXPECT_EQ(table.find_by_alias("acpi:LNXPWRBN:"), std::vector<std::string>{"button"});
  EXPECT_TRUE(table.find_by_alias("virtio:d00000099v00001AF4").empty());
}

TEST(DeviceEventTest, IsTakenApart) {
  const auto event =
      parse_device_event("add@/devices/x\0ACTION=add\0SUBSYSTEM=input\0DEVNAME=input/event3\0MODALIAS=input:b0019\0"s);
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->action, "add");
  EXPECT_EQ(event->node, "/dev/input/event3");
  EXPECT_EQ(event->modalias, "input:b0019");
  EXPECT_FALSE(parse_device_event("libudev\0ACTION=add\0"s).has_value());
}

// DHCP

constexpr MacAddress kMac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};

/// A server's answer with the given options behind the message type.
std::string reply_packet(char type, const std::string& options) {
  std::string packet = build_dhcp_request({.type = DhcpType::Discover,
                                           .transaction = 7,
                                           .mac = kMac,
                                           .hostname = "",
                                           .requested = "",
                                           .server = "",
                                           .current = ""})
                           .substr(0, 240);
  packet[0] = 2;
  packet.replace(16, 4, "\x0A\x00\x02\x0F"s);
  return packet + "\x35\x01"s + type + options;
}

TEST(DhcpTest, BuildsADiscovery) {
  const std::string packet = build_dhcp_request({.type = DhcpType::Discover,
                                                 .transaction = 0x01020304,
                                                 .mac = kMac,
                                                 .hostname = "guest",
                                                 .requested = "",
                                                 .server = "",
                                                 .current = ""});
  EXPECT_EQ(packet.size(), 300U);
  EXPECT_EQ(packet.substr(0, 12), "\x01\x01\x06\x00\x01\x02\x03\x04\x00\x00\x80\x00"s);
  EXPECT_EQ(packet.substr(28, 6), "\x52\x54\x00\x12\x34\x56"s);
  EXPECT_EQ(packet.substr(236, 7), "\x63\x82\x53\x63\x35\x01\x01"s);
  EXPECT_NE(packet.find("\x0C\x05guest"), std::string::npos);
}

TEST(DhcpTest, RequestNamesAddressAndServer) {
  const std::string packet = build_dhcp_request({.type = DhcpType::Request,
                                                 .transaction = 1,
                                                 .mac = kMac,
                                                 .hostname = "",
                                                 .requested = "10.0.2.15",
                                                 .server = "10.0.2.2",
                                                 .current = ""});
  EXPECT_NE(packet.find("\x32\x04\x0A\x00\x02\x0F\x36\x04\x0A\x00\x02\x02"s), std::string::npos);
}

TEST(DhcpTest, ReadsAnAcknowledgement) {
  const std::string packet = reply_packet(5,
                                          "\x01\x04\xFF\xFF\xFF\x00"
                                          "\x03\x04\x0A\x00\x02\x02"
                                          "\x06\x08\x0A\x00\x02\x03\x08\x08\x08\x08"
                                          "\x33\x04\x00\x00\x0E\x10"
                                          "\x36\x04\x0A\x00\x02\x02\xFF"s);
  const auto reply = parse_dhcp_reply(packet, 7, kMac);
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->type, DhcpType::Acknowledge);
  EXPECT_EQ(reply->lease.address, "10.0.2.15");
  EXPECT_EQ(reply->lease.prefix_length, 24);
  EXPECT_EQ(reply->lease.routers, std::vector<std::string>{"10.0.2.2"});
  EXPECT_EQ(reply->lease.nameservers, (std::vector<std::string>{"10.0.2.3", "8.8.8.8"}));
  EXPECT_EQ(reply->lease.server, "10.0.2.2");
  EXPECT_EQ(reply->lease.lease_seconds, 3600U);
  EXPECT_EQ(reply->lease.renew_seconds, 1800U);
}

TEST(DhcpTest, IgnoresAnswersToOthers) {
  const std::string packet = reply_packet(2, "\xFF");
  EXPECT_TRUE(parse_dhcp_reply(packet, 7, kMac).has_value());
  EXPECT_FALSE(parse_dhcp_reply(packet, 8, kMac).has_value());
  EXPECT_FALSE(parse_dhcp_reply(packet, 7, MacAddress{}).has_value());
}

TEST(DhcpTest, IgnoresBrokenAnswers) {
  EXPECT_FALSE(parse_dhcp_reply("", 7, kMac).has_value());
  EXPECT_FALSE(parse_dhcp_reply(reply_packet(5, "\x01\x04\xFF").substr(0, 200), 7, kMac).has_value());
  EXPECT_FALSE(parse_dhcp_reply(reply_packet(5, "\x01\x04\xFF"s), 7, kMac).has_value());
  EXPECT_FALSE(parse_dhcp_reply(reply_packet(5, "\x01"s), 7, kMac).has_value());
}

TEST(ListenerInodeTest, IsThatOfThePortThatListens) {
  const std::string table =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
      "   0: 0100007F:0016 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0 20 4 0 10 -1\n"
      "   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0\n"
      "   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 0 100 0 0 10 0\n";
  EXPECT_EQ(listener_inode(table, 22), 13U);
  EXPECT_EQ(listener_inode(table, 8080), 12U);
  EXPECT_EQ(listener_inode(table, 23), 0U);
}

}  // namespace
}  // namespace vmtest::guest
