#include "vmtest/host/text.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>
#include <string>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

TEST(SanitizeConsoleTest, KeepsPlainText) { EXPECT_EQ(sanitize_console("one\n\ttwo\n"), "one\n\ttwo\n"); }

TEST(SanitizeConsoleTest, KeepsUtf8) {
  EXPECT_EQ(sanitize_console("gr\u00fc\u00df \u2713 \u00a0"), "gr\u00fc\u00df \u2713 \u00a0");
}

TEST(SanitizeConsoleTest, TakesOutColours) { EXPECT_EQ(sanitize_console("\x1b[1;31mred\x1b[0m"), "red"); }

TEST(SanitizeConsoleTest, TakesOutCursorMoves) { EXPECT_EQ(sanitize_console("a\x1b[2J\x1b[Hb\x1b[?25lc"), "abc"); }

TEST(SanitizeConsoleTest, TakesOutTitlesEndedByBell) { EXPECT_EQ(sanitize_console("a\x1b]0;title\ab"), "ab"); }

TEST(SanitizeConsoleTest, TakesOutTitlesEndedByStringTerminator) { EXPECT_EQ(sanitize_console("a\x1b]0;title\x1b\\b"), "ab"); }

TEST(SanitizeConsoleTest, UnclosedTitleTakesNoMoreThanItsLine) { EXPECT_EQ(sanitize_console("a\x1b]0;title\nb"), "a\nb"); }

TEST(SanitizeConsoleTest, UnclosedControlSequenceTakesNoMoreThanItsLine) { EXPECT_EQ(sanitize_console("a\x1b[12\nb"), "a\nb"); }

TEST(SanitizeConsoleTest, TakesOutDeviceControlStrings) { EXPECT_EQ(sanitize_console("a\x1bPq#0\x1b\\b"), "ab"); }

TEST(SanitizeConsoleTest, TakesOutTwoCharacterEscapes) {
  EXPECT_EQ(sanitize_console("a\x1b"
                             "cb\x1b(Bc"),
            "abc");
}

TEST(SanitizeConsoleTest, TakesOutAnEscapeAtTheEnd) { EXPECT_EQ(sanitize_console("a\x1b"), "a"); }

TEST(SanitizeConsoleTest, TakesOutControlCharacters) { EXPECT_EQ(sanitize_console(std::string("a\a\b\0\x7f\vb", 7)), "ab"); }

TEST(SanitizeConsoleTest, TakesOutC1ControlsInUtf8) {
  EXPECT_EQ(sanitize_console("a\xc2\x9b"
                             "b\xc2\x85"
                             "c"),
            "abc");
}

TEST(SanitizeConsoleTest, BreaksC1ControlsAsBytes) {
  EXPECT_EQ(sanitize_console("a\x9b"
                             "31mb\x9d"
                             "c"),
            "a?31mb?c");
}

TEST(SanitizeConsoleTest, LineEndsOfTerminalsBecomeNewlines) { EXPECT_EQ(sanitize_console("a\r\nb\r\r\nc\r"), "a\nb\nc"); }

TEST(SanitizeConsoleTest, LoneReturnHidesNothing) { EXPECT_EQ(sanitize_console("secret\rnothing"), "secret\nnothing"); }

TEST(SanitizeConsoleTest, BreaksGithubCommands) {
  EXPECT_EQ(sanitize_console("x\n::set-output name=a::b\n"), "x\n| ::set-output name=a::b\n");
  EXPECT_EQ(sanitize_console("##[error]bad"), "# #[error]bad");
}

TEST(SanitizeConsoleTest, BreaksAzureCommands) {
  EXPECT_EQ(sanitize_console("##vso[task.setvariable]x"), "# #vso[task.setvariable]x");
}

TEST(SanitizeConsoleTest, BreaksTeamcityCommands) {
  EXPECT_EQ(sanitize_console("##teamcity[testFailed]"), "# #teamcity[testFailed]");
}

TEST(SanitizeConsoleTest, BreaksIndentedCommands) { EXPECT_EQ(sanitize_console("  ::error::x"), "|   ::error::x"); }

TEST(SanitizeConsoleTest, BreaksCommandsBehindALoneReturn) { EXPECT_EQ(sanitize_console("x\r::error::y"), "x\n| ::error::y"); }

TEST(SanitizeConsoleTest, BreaksCommandsHiddenByEscapes) { EXPECT_EQ(sanitize_console(":\x1b[0m:error::y"), "| ::error::y"); }

TEST(SanitizeConsoleTest, BreaksHashCommandsAnywhere) {
  // Azure's agent looks for its prefix in the whole line.
  EXPECT_EQ(sanitize_console("x ##vso[y]z ###[w]"), "x # #vso[y]z ## #[w]");
}

TEST(SanitizeConsoleTest, BreaksCommandsBehindUnicodeBlanks) {
  EXPECT_EQ(sanitize_console("\u00a0\u3000::x"), "| \u00a0\u3000::x");
}

TEST(SanitizeConsoleTest, LeavesWhatIsNoCommand) {
  EXPECT_EQ(sanitize_console("std::string ## x # [y]"), "std::string ## x # [y]");
}

TEST(SanitizeConsoleTest, EscapeBeforeALineEndKeepsIt) { EXPECT_EQ(sanitize_console("a\x1b\nb"), "a\nb"); }

TEST(SanitizeConsoleTest, EscapeBeforeAnEscapeHidesNothing) { EXPECT_EQ(sanitize_console("\x1b\x1b[31mred"), "red"); }

TEST(SanitizeConsoleTest, BrokenUtf8IsShownAsSuch) {
  EXPECT_EQ(sanitize_console("\xc3"), "?");
  EXPECT_EQ(sanitize_console("\xed\xa0\x80"), "???");
  EXPECT_EQ(sanitize_console("\xf0\x9f\x98\x80"), "\xf0\x9f\x98\x80");
}

TEST(Utf8Test, IsTold) {
  EXPECT_TRUE(is_utf8(""));
  EXPECT_TRUE(is_utf8("a\u00fc\u2713"));
  EXPECT_TRUE(is_utf8(std::string_view("a\0b", 3)));
  EXPECT_FALSE(is_utf8("a\xff"));
  EXPECT_FALSE(is_utf8("a\xc3")) << "cut short";
  EXPECT_FALSE(is_utf8("\xc0\xaf")) << "longer than it must be";
  EXPECT_FALSE(is_utf8("\xed\xa0\x80")) << "half of a pair of UTF-16";
}

TEST(LastLinesTest, GivesTheEnd) {
  EXPECT_EQ(last_lines("a\nb\nc\n", 2), "b\nc");
  EXPECT_EQ(last_lines("a\nb\nc", 1), "c");
}

TEST(LastLinesTest, GivesAllWhenThereAreFewer) { EXPECT_EQ(last_lines("a\nb", 5), "a\nb"); }

TEST(LastLinesTest, GivesNothingOfNothing) {
  EXPECT_EQ(last_lines("", 5), "");
  EXPECT_EQ(last_lines("\n\n", 5), "");
  EXPECT_EQ(last_lines("a\nb", 0), "");
}

TEST(LastLinesTest, CountsEmptyLines) { EXPECT_EQ(last_lines("\na", 2), "\na"); }

TEST(IndentTest, PutsThePrefixBeforeEachLine) {
  EXPECT_EQ(indent("a\nb\n", "> "), "> a\n> b\n");
  EXPECT_EQ(indent("a", "> "), "> a");
  EXPECT_EQ(indent("", "> "), "");
}

TEST(NameTest, AcceptsPlainNames) {
  EXPECT_NO_THROW(require_name("debian-12_x.y", "an image"));
  EXPECT_NO_THROW(require_name(std::string(64, 'a'), "an image"));
}

TEST(NameTest, RefusesWhatCouldLeaveAFolder) {
  EXPECT_THROW(require_name("a/b", "a VM"), Error);
  EXPECT_THROW(require_name("..", "a VM"), Error);
  EXPECT_THROW(require_name(".hidden", "a VM"), Error);
}

TEST(NameTest, RefusesWhatLooksLikeAnOption) { EXPECT_THROW(require_name("-rf", "a VM"), Error); }

TEST(NameTest, RefusesEmptyLongAndControlCharacters) {
  EXPECT_THROW(require_name("", "a VM"), Error);
  EXPECT_THROW(require_name(std::string(65, 'a'), "a VM"), Error);
  EXPECT_THROW(require_name("a\nb", "a VM"), Error);
  EXPECT_THROW(require_name(std::string_view("a\0b", 3), "a VM"), Error);
  EXPECT_THROW(require_name("gr\u00fcn", "a VM"), Error);
}

TEST(NameTest, RefusalShowsTheNameHarmlessly) {
  try {
    require_name("\x1b[31m/x", "a VM");
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("\"/x\" cannot name a VM: use 1-64 letters"));
  }
}

TEST(NameTest, MakeNameGivesAnAcceptedName) {
  EXPECT_EQ(make_name("Suite/Test.Case <1>"), "Suite-Test.Case--1-");
  EXPECT_EQ(make_name("../../etc"), "etc");
  EXPECT_EQ(make_name("--"), "vm");
  EXPECT_EQ(make_name(std::string(100, 'a')), std::string(64, 'a'));
}

TEST(RandomTest, HexHasTheWantedLengthAndDiffers) {
  EXPECT_TRUE(std::regex_match(random_hex(), std::regex("[0-9a-f]{32}")));
  EXPECT_EQ(random_hex(7).size(), 7U);
  EXPECT_EQ(random_hex(100).size(), 100U);
  EXPECT_NE(random_hex(), random_hex());
}

TEST(RandomTest, UuidIsOfVersionFour) {
  const std::regex form("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  EXPECT_TRUE(std::regex_match(random_uuid(), form));
  EXPECT_NE(random_uuid(), random_uuid());
}

TEST(RandomTest, MacIsLocallyAdministeredUnicast) {
  const std::string mac = random_mac();
  ASSERT_TRUE(std::regex_match(mac, std::regex("([0-9a-f]{2}:){5}[0-9a-f]{2}"))) << mac;
  EXPECT_EQ(std::strtoul(mac.substr(0, 2).c_str(), nullptr, 16) & 3U, 2U);
  EXPECT_NE(random_mac(), random_mac());
}

// Vectors of FIPS 180-2, appendix B.
TEST(Sha256Test, KnownVectors) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, OfAFileIsThatOfItsContent) {
  const TemporaryDirectory folder;
  const std::string content((1 << 20) + 17, 'x');
  write_file(folder.path() / "file", content);
  EXPECT_EQ(sha256_file(folder.path() / "file"), sha256(content));
}

TEST(Base64Test, KnownVectors) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64(std::string_view("\0\xff", 2)), "AP8=");
}

TEST(IpAddressTest, AcceptsBothFamilies) {
  EXPECT_TRUE(is_ip_address("10.0.2.15"));
  EXPECT_TRUE(is_ip_address("::1"));
  EXPECT_TRUE(is_ip_address("fe80::5054:ff:fe12:3456"));
}

TEST(IpAddressTest, RefusesEverythingElse) {
  EXPECT_FALSE(is_ip_address(""));
  EXPECT_FALSE(is_ip_address("10.0.2"));
  EXPECT_FALSE(is_ip_address("10.0.2.256"));
  EXPECT_FALSE(is_ip_address("10.0.2.15 "));
  EXPECT_FALSE(is_ip_address("fe80::1%eth0"));
  EXPECT_FALSE(is_ip_address("localhost"));
  EXPECT_FALSE(is_ip_address(std::string("10.0.2.15\0x", 11)));
}

}  // namespace
}  // namespace vmtest
