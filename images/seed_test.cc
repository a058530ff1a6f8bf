#include "vmtest/seed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

SeedConfig example() {
  return {
      .instance_id = "iid-1",
      .hostname = "guest",
      .users = {{.name = "root", .ssh_authorized_keys = {"ssh-ed25519 AAAA test"}}},
      .host_key = SeedHostKey{.private_key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
                              .public_key = "ssh-ed25519 BBBB host"},
      .nics = {{.mac_address = "52:54:00:12:34:56"}},
  };
}

json parse_user_data(const SeedConfig& config) {
  const std::string text = user_data(config);
  return json::parse(text.substr(text.find('\n')));
}

/// The entry of write_files for a path; null when there is none, the last one when there are several.
json written_file(const json& data, const std::string& path) {
  json found;
  for (const json& file : data.at("write_files")) {
    found = file.at("path") == path ? file : found;
  }
  return found;
}

std::string error_of(const SeedConfig& config) {
  try {
    validate(config);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(SeedUserDataTest, StartsWithTheCloudConfigHeader) { EXPECT_THAT(user_data(example()), StartsWith("#cloud-config\n{")); }

TEST(SeedUserDataTest, NamesHostUsersAndKeys) {
  const json data = parse_user_data(example());

  EXPECT_EQ(data.at("hostname"), "guest");
  EXPECT_EQ(data.at("users").at(0).at("name"), "root");
  EXPECT_EQ(data.at("users").at(0).at("ssh_authorized_keys"), json::array({"ssh-ed25519 AAAA test"}));
  EXPECT_EQ(data.at("ssh_keys").at("ed25519_public"), "ssh-ed25519 BBBB host");
  EXPECT_THAT(data.at("ssh_keys").at("ed25519_private").get<std::string>(), StartsWith("-----BEGIN"));
}

TEST(SeedUserDataTest, GivesOtherAccountsThanRootSudoAndNoLock) {
  SeedConfig config = example();
  config.users.push_back({.name = "debian"});

  const json user = parse_user_data(config).at("users").at(1);

  EXPECT_EQ(user.at("sudo"), "ALL=(ALL) NOPASSWD:ALL");
  EXPECT_EQ(user.at("passwd"), "*");
  EXPECT_EQ(user.at("lock_passwd"), false);
}

TEST(SeedUserDataTest, LeavesHostKeysToTheGuestWhenThereIsNone) {
  SeedConfig config = example();
  config.host_key.reset();

  const json data = parse_user_data(config);

  EXPECT_FALSE(data.contains("ssh_keys"));
  EXPECT_EQ(data.at("ssh_genkeytypes"), json::array({"ed25519"}));
}

TEST(SeedUserDataTest, WritesFilesInBase64) {
  SeedConfig config = example();
  config.files = {{.path = "/srv/a", .content = std::string("\0\xff\n", 3), .permissions = 04750},
                  {.path = "/srv/b", .content = "ab", .append = true},
                  {.path = "/srv/c", .content = "a"},
                  {.path = "/srv/d", .content = ""}};

  const json data = parse_user_data(config);

  EXPECT_EQ(written_file(data, "/srv/a"),
            json({{"path", "/srv/a"}, {"encoding", "b64"}, {"content", "AP8K"}, {"permissions", "4750"}}));
  EXPECT_EQ(written_file(data, "/srv/b").at("content"), "YWI=");
  EXPECT_EQ(written_file(data, "/srv/b").at("append"), true);
  EXPECT_EQ(written_file(data, "/srv/c").at("content"), "YQ==");
  EXPECT_EQ(written_file(data, "/srv/d").at("content"), "");
}

TEST(SeedUserDataTest, KeepsCommandsAsArgumentLists) {
  SeedConfig config = example();
  config.commands = {{"/bin/sh", "-c", "echo 'a b' > /x"}, {"touch", "/a b"}};

  EXPECT_EQ(parse_user_data(config).at("runcmd"), json({{"/bin/sh", "-c", "echo 'a b' > /x"}, {"touch", "/a b"}}));
}

TEST(SeedUserDataTest, GivesTheEnvironmentToPamAndToSshd) {
  SeedConfig config = example();
  config.profile = SeedProfile::Stock;
  config.environment = {{"A", "x \"y\""}, {"B", "1"}};

  const json data = parse_user_data(config);

  EXPECT_EQ(written_file(data, "/etc/environment").at("content"), "QT0ieCAieSIiCkI9IjEiCg==");  // A="x "y""\nB="1"\n
  EXPECT_EQ(written_file(data, "/etc/ssh/sshd_config.d/10-vmtest.conf").at("content"),
            "U2V0RW52IEE9InggXCJ5XCIiIEI9IjEiCg==");  // SetEnv A="x \"y\"" B="1"\n
}

TEST(SeedUserDataTest, FastProfileRunsOneStage) {
  const json data = parse_user_data(example());

  EXPECT_EQ(data.at("cloud_init_modules"), json::array({"write-files", "users-groups", "ssh", "bootcmd"}));
  EXPECT_EQ(json::parse(meta_data(example())).at("dsmode"), "local");
  EXPECT_FALSE(written_file(data, "/etc/ssh/sshd_config.d/10-vmtest.conf").is_null());
  EXPECT_EQ(written_file(data, "/etc/default/ssh").at("content"), "U1NIRF9PUFRTPS1yCg==");  // SSHD_OPTS=-r\n
}

TEST(SeedUserDataTest, FastProfileGrowsTheRootOnRequest) {
  SeedConfig config = example();
  config.grow_root = true;

  const json data = parse_user_data(config);

  EXPECT_EQ(data.at("cloud_init_modules"),
            json::array({"growpart", "resizefs", "write-files", "users-groups", "ssh", "bootcmd"}));
}

TEST(SeedUserDataTest, StockProfileLeavesStagesAndSshdAlone) {
  SeedConfig config = example();
  config.profile = SeedProfile::Stock;

  const json data = parse_user_data(config);

  EXPECT_FALSE(data.contains("cloud_init_modules"));
  EXPECT_FALSE(data.contains("bootcmd"));
  EXPECT_FALSE(json::parse(meta_data(config)).contains("dsmode"));
  EXPECT_TRUE(written_file(data, "/etc/ssh/sshd_config.d/10-vmtest.conf").is_null());
  EXPECT_TRUE(written_file(data, "/etc/default/ssh").is_null());
}

TEST(SeedUserDataTest, StockProfilePrintsTheMarkerByTheLastLineOfRuncmd) {
  SeedConfig config = example();
  config.profile = SeedProfile::Stock;

  EXPECT_EQ(parse_user_data(config).at("runcmd"), json::array({"/usr/local/lib/vmtest/ready"}));
}

TEST(SeedUserDataTest, StockProfileMixesPlumbingStringsWithCommands) {
  SeedConfig config = example();
  config.profile = SeedProfile::Stock;
  config.commands = {{"touch", "/a b"}};

  const json commands = parse_user_data(config).at("runcmd");

  ASSERT_EQ(commands.size(), 4U);
  EXPECT_THAT(commands.at(0).get<std::string>(), StartsWith("set -e; trap "));
  EXPECT_EQ(commands.at(1), "vmtest_command='touch /a b'");
  EXPECT_EQ(commands.at(2), json({"touch", "/a b"}));
}

TEST(SeedUserDataTest, CommandsAreNamedOnOneShortLine) {
  SeedConfig config = example();
  config.profile = SeedProfile::Stock;
  config.commands = {{"/bin/sh", "-c", "one\ntwo"}, {"/bin/sh", "-c", std::string(119, 'x') + "\u00e9 and more"}};

  const json commands = parse_user_data(config).at("runcmd");

  EXPECT_EQ(commands.at(1), "vmtest_command='one two'");
  EXPECT_EQ(commands.at(3), "vmtest_command='" + std::string(119, 'x') + "...'");
}

TEST(SeedUserDataTest, SaysWhichTextIsNotUtf8) {
  SeedConfig config = example();
  config.commands = {{"echo", "\xff"}};

  EXPECT_THROW(static_cast<void>(user_data(config)), Error);
}

TEST(SeedUserDataTest, IsTheSameForTheSameConfig) { EXPECT_EQ(user_data(example()), user_data(example())); }

TEST(SeedMetaDataTest, NamesInstanceAndHostForTheSeedCheck) {
  EXPECT_EQ(meta_data(example()), R"({"instance-id":"iid-1","local-hostname":"guest","dsmode":"local"})"
                                  "\n");
}

TEST(SeedNetworkTest, IsLeftOutWithoutCards) {
  SeedConfig config = example();
  config.nics.clear();

  EXPECT_EQ(network_config(config), "");
}

TEST(SeedNetworkTest, ConfiguresDhcpByMacAddress) {
  SeedConfig config = example();
  config.nics[0].mac_address = "52:54:00:AB:CD:EF";

  EXPECT_EQ(json::parse(network_config(config)),
            json::parse(R"({"version":2,"ethernets":{"nic0":{"match":{"macaddress":"52:54:00:ab:cd:ef"},"dhcp4":true}}})"));
}

TEST(SeedNetworkTest, ConfiguresStaticAddressesOfBothFamilies) {
  SeedConfig config = example();
  config.nics = {{.mac_address = "52:54:00:12:34:56",
                  .dhcp4 = false,
                  .addresses = {"10.44.0.2/30", "fd00::2/64"},
                  .gateways = {"10.44.0.1", "fd00::1"},
                  .nameservers = {"10.44.0.1"}}};

  EXPECT_EQ(json::parse(network_config(config)), json::parse(R"({"version":2,"ethernets":{"nic0":{
      "match":{"macaddress":"52:54:00:12:34:56"},"dhcp4":false,"addresses":["10.44.0.2/30","fd00::2/64"],
      "routes":[{"to":"0.0.0.0/0","via":"10.44.0.1"},{"to":"::/0","via":"fd00::1"}],
      "nameservers":{"addresses":["10.44.0.1"]}}}})"));
}

TEST(SeedKernelParametersTest, AreEmptyForTheStockProfile) {
  SeedConfig config = example();
  EXPECT_THAT(kernel_parameters(config), HasSubstr("ci.ds=NoCloud"));

  config.profile = SeedProfile::Stock;
  EXPECT_EQ(kernel_parameters(config), "");
}

TEST(SeedValidationTest, AcceptsTheExample) { EXPECT_EQ(error_of(example()), ""); }

TEST(SeedValidationTest, RejectsBadHostnames) {
  SeedConfig config = example();

  config.hostname = "";
  EXPECT_THAT(error_of(config), HasSubstr("hostname"));
  config.hostname = "-a";
  EXPECT_THAT(error_of(config), HasSubstr("hostname"));
  config.hostname = "a..b";
  EXPECT_THAT(error_of(config), HasSubstr("hostname"));
  config.hostname = "a b";
  EXPECT_THAT(error_of(config), HasSubstr("hostname"));
  config.hostname = "a.";
  EXPECT_THAT(error_of(config), HasSubstr("hostname"));
  config.hostname = std::string(65, 'a');
  EXPECT_THAT(error_of(config), HasSubstr("hostname"));
}

TEST(SeedValidationTest, RejectsBadInstanceIds) {
  SeedConfig config = example();

  config.instance_id = "";
  EXPECT_THAT(error_of(config), HasSubstr("instance_id"));
  config.instance_id = "a\"b";
  EXPECT_THAT(error_of(config), HasSubstr("instance_id"));
}

TEST(SeedValidationTest, RejectsUserNamesThatAreNoLoginNames) {
  SeedConfig config = example();

  config.users[0].name = "Root";
  EXPECT_THAT(error_of(config), HasSubstr("user"));
  config.users[0].name = "a:b";
  EXPECT_THAT(error_of(config), HasSubstr("user"));
}

TEST(SeedValidationTest, RejectsKeysOfSeveralLines) {
  SeedConfig config = example();
  config.users[0].ssh_authorized_keys = {"ssh-ed25519 AAAA\nssh-ed25519 BBBB"};

  EXPECT_THAT(error_of(config), HasSubstr("one line"));
}

TEST(SeedValidationTest, RejectsAPrivateKeyInPlaceOfAPublicOne) {
  SeedConfig config = example();
  config.users[0].ssh_authorized_keys = {config.host_key->private_key};

  EXPECT_THAT(error_of(config), HasSubstr("key of user root"));
}

TEST(SeedValidationTest, RejectsPathsThatAreNotAbsoluteAndNormal) {
  SeedConfig config = example();

  config.files = {{.path = "etc/motd"}};
  EXPECT_THAT(error_of(config), HasSubstr("absolute"));
  config.files = {{.path = "/etc/../motd"}};
  EXPECT_THAT(error_of(config), HasSubstr("absolute"));
  config.files = {{.path = "/etc/"}};
  EXPECT_THAT(error_of(config), HasSubstr("absolute"));
  config.files = {{.path = "/etc/a\nb"}};
  EXPECT_THAT(error_of(config), HasSubstr("absolute"));
}

TEST(SeedValidationTest, RejectsEmptyCommands) {
  SeedConfig config = example();

  config.commands = {{}};
  EXPECT_THAT(error_of(config), HasSubstr("command"));
  config.commands = {{""}};
  EXPECT_THAT(error_of(config), HasSubstr("command"));
  config.commands = {{"echo", std::string("a\0b", 3)}};
  EXPECT_THAT(error_of(config), HasSubstr("NUL"));
}

TEST(SeedValidationTest, RejectsAddressesWithoutAValidPrefixLength) {
  SeedConfig config = example();

  config.nics[0].addresses = {"10.0.0.1"};
  EXPECT_THAT(error_of(config), HasSubstr("prefix length"));
  config.nics[0].addresses = {"10.0.0.1/33"};
  EXPECT_THAT(error_of(config), HasSubstr("prefix length"));
  config.nics[0].addresses = {"300.0.0.1/8"};
  EXPECT_THAT(error_of(config), HasSubstr("prefix length"));
}

TEST(SeedValidationTest, RejectsTwoCardsThatCannotBeToldApart) {
  SeedConfig config = example();
  config.nics = {{.mac_address = "52:54:00:12:34:56"}, {.mac_address = ""}};

  EXPECT_THAT(error_of(config), HasSubstr("MAC address"));
}

TEST(SeedValidationTest, RejectsTwoGatewaysOfOneFamily) {
  SeedConfig config = example();
  config.nics[0].gateways = {"10.0.0.1", "10.0.0.2"};

  EXPECT_THAT(error_of(config), HasSubstr("gateway"));
}

TEST(SeedValidationTest, RejectsVariablesOfSeveralLines) {
  SeedConfig config = example();
  config.environment = {{"A", "b\nC=d"}};

  EXPECT_THAT(error_of(config), HasSubstr("environment"));
}

TEST(SeedValidationTest, ShowsTheValueWithoutControlCharacters) {
  SeedConfig config = example();
  config.hostname = "a\x1b[31mb";

  EXPECT_THAT(error_of(config), Not(HasSubstr("\x1b")));
}

class SeedIsoTest : public ::testing::Test {
 protected:
  void SetUp() override { iso_ = directory_.path() / "seed.iso"; }

  /// What a tool prints about the image.
  static std::string output_of(const std::vector<std::string>& argv) {
    return run_tool(argv, Deadline::after(std::chrono::seconds(20))).out;
  }

  TemporaryDirectory directory_{"seed-iso-test-"};
  std::filesystem::path iso_;
};

class SeedIsoReadBackTest : public SeedIsoTest {
 protected:
  void SetUp() override {
    if (!find_program("isoinfo")) {
      GTEST_SKIP() << "isoinfo is not installed (package genisoimage)";
    }
    SeedIsoTest::SetUp();
  }
};

TEST_F(SeedIsoReadBackTest, HasLabelJolietAndRockRidge) {
  write_seed_iso(example(), iso_);

  const std::string description = output_of({"isoinfo", "-d", "-i", iso_.string()});

  EXPECT_THAT(description, HasSubstr("Volume id: cidata\n"));
  EXPECT_THAT(description, HasSubstr("Joliet with UCS level 3 found"));
  EXPECT_THAT(description, HasSubstr("Rock Ridge signatures"));
}

TEST_F(SeedIsoReadBackTest, GivesBackTheThreeFiles) {
  write_seed_iso(example(), iso_);

  EXPECT_EQ(output_of({"isoinfo", "-R", "-i", iso_.string(), "-x", "/user-data"}), user_data(example()));
  EXPECT_EQ(output_of({"isoinfo", "-R", "-i", iso_.string(), "-x", "/meta-data"}), meta_data(example()));
  EXPECT_EQ(output_of({"isoinfo", "-R", "-i", iso_.string(), "-x", "/network-config"}), network_config(example()));
}

TEST_F(SeedIsoReadBackTest, GivesBackTheFilesByTheirJolietNames) {
  write_seed_iso(example(), iso_);

  EXPECT_EQ(output_of({"isoinfo", "-J", "-i", iso_.string(), "-x", "/network-config"}), network_config(example()));
}

TEST_F(SeedIsoReadBackTest, LeavesOutAnEmptyNetworkConfig) {
  SeedConfig config = example();
  config.nics.clear();

  write_seed_iso(config, iso_);

  EXPECT_THAT(output_of({"isoinfo", "-R", "-f", "-i", iso_.string()}), Not(HasSubstr("network-config")));
}

TEST_F(SeedIsoReadBackTest, CarriesFurtherFiles) {
  const std::string program = std::string(
                                  "\x7f"
                                  "ELF\0",
                                  5) +
                              std::string(100000, 'x');

  write_seed_iso(example(), {{.name = "guest-agent", .content = program, .permissions = 0555}}, iso_);

  EXPECT_EQ(output_of({"isoinfo", "-R", "-i", iso_.string(), "-x", "/guest-agent"}), program);
  EXPECT_THAT(output_of({"isoinfo", "-R", "-l", "-i", iso_.string()}), HasSubstr("-r-xr-xr-x"));
}

TEST_F(SeedIsoTest, IsReadableByItsOwnerOnly) {
  write_seed_iso(example(), iso_);

  struct stat status = {};
  ASSERT_EQ(::stat(iso_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST_F(SeedIsoTest, HoldsTheInstanceIdAsTheGuestLooksForIt) {
  write_seed_iso(example(), iso_);

  EXPECT_THAT(read_file(iso_), HasSubstr(R"("instance-id":"iid-1")"));
}

TEST_F(SeedIsoTest, RejectsAPayloadNamedLikeAFileOfTheSeed) {
  EXPECT_THROW(write_seed_iso(example(), {{.name = "user-data", .content = ""}}, iso_), Error);
  EXPECT_THROW(write_seed_iso(example(), {{.name = "a/b", .content = ""}}, iso_), Error);
}

TEST_F(SeedIsoTest, LeavesNothingBehindWhenTheConfigIsInvalid) {
  SeedConfig config = example();
  config.hostname = "";

  EXPECT_THROW(write_seed_iso(config, iso_), Error);

  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

}  // namespace
}  // namespace vmtest
