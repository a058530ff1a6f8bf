// What the stand-in's DHCP server says, and puts down as macOS' does.

#include <gtest/gtest.h>

#include <string>

#include "network/neighbours.h"
#include "standin/dhcp_messages.h"

namespace vmtest::vz::standin {
namespace {

/// A client's message of that type with more options.
std::string message(char type, const std::string& more = {}) {
  std::string text(236, '\0');
  text[0] = 1;
  text.replace(4, 4, "abcd");
  text.replace(28, 6, std::string("\x52\x54\x00\x12\x34\x56", 6));
  return text + "\x63\x82\x53\x63" + std::string("\x35\x01", 2) + type + more + '\xff';
}

const DhcpOffer kOffer = {.server = "198.18.0.1", .address = "198.18.0.2", .netmask = "255.255.255.252", .lease_seconds = 3600};

TEST(StandInDhcpTest, OffersWhatIsDiscoveredAndAcknowledgesWhatIsRequested) {
  for (const auto& [asked, answered] : {std::pair{'\1', '\2'}, {'\3', '\5'}}) {
    const auto question = parse_dhcp(message(asked));
    ASSERT_TRUE(question);
    const std::string answer = answer_dhcp(*question, kOffer);
    EXPECT_EQ(answer[0], 2);
    EXPECT_EQ(answer.substr(4, 4), "abcd");
    EXPECT_EQ(answer.substr(16, 4), std::string("\xc6\x12\x00\x02", 4));
    EXPECT_EQ(answer.substr(240, 3), std::string("\x35\x01", 2) + answered);
    EXPECT_NE(answer.find(std::string("\x33\x04\x00\x00\x0e\x10", 6)), std::string::npos) << "no lease of 3600 s";
    EXPECT_GE(answer.size(), 300U);
  }
}

TEST(StandInDhcpTest, PassesOverWhatIsNoQuestion) {
  EXPECT_FALSE(parse_dhcp(""));
  EXPECT_FALSE(parse_dhcp(message('\5')));
  EXPECT_FALSE(parse_dhcp(message('\1').substr(0, 238)));
  EXPECT_FALSE(parse_dhcp(message('\1', "\x0c\x50short")));
  std::string reply = message('\1');
  reply[0] = 2;
  EXPECT_FALSE(parse_dhcp(reply));
}

TEST(StandInDhcpTest, LeaseIsPutDownByTheCardWhereTheClientSaysNothingElse) {
  const auto question = parse_dhcp(message('\3', "\x0c\x03web"));
  ASSERT_TRUE(question);
  const std::string entry = lease_entry(*question, "198.18.0.2", 0x65540000);
  EXPECT_EQ(entry,
            "{\n\tname=web\n\tip_address=198.18.0.2\n\thw_address=1,52:54:0:12:34:56\n\tidentifier=1,52:54:0:12:34:56\n"
            "\tlease=0x65540000\n}\n");
  EXPECT_EQ(find_in_bootpd_leases(entry, "52:54:00:12:34:56", 1000), "198.18.0.2");
}

TEST(StandInDhcpTest, LeaseIsPutDownByTheClientsIdentifier) {
  const auto question = parse_dhcp(message('\3', std::string("\x3d\x05\xff\x0a\x00\x02\xf1", 7)));
  ASSERT_TRUE(question);
  const std::string entry = lease_entry(*question, "198.18.0.2", 0x65540000);
  EXPECT_NE(entry.find("\thw_address=ff,a:0:2:f1\n"), std::string::npos) << entry;
  EXPECT_EQ(find_in_bootpd_leases(entry, "52:54:00:12:34:56", 1000), std::nullopt);
}

}  // namespace
}  // namespace vmtest::vz::standin
