#include "command_line.h"

#include <gtest/gtest.h>

#include "vmtest/error.h"

namespace vmtest::ssh {
namespace {

using Words = std::vector<std::string>;

TEST(CommandLineTest, QuotesEveryCharacterOfAShell) { EXPECT_EQ(quote("a'b $c `d` \\ \"e\"\n"), "'a'\\''b $c `d` \\ \"e\"\n'"); }

TEST(CommandLineTest, QuotesTheEmptyWord) { EXPECT_EQ(quote(""), "''"); }

TEST(CommandLineTest, GivesAShellLineAsItIs) {
  EXPECT_EQ(command_line(GuestCommand("ls | wc -l"), "mark"), "printf '%s %s\\n' 'mark' $$ >&2\nls | wc -l");
}

TEST(CommandLineTest, ReplacesTheShellByAProgram) {
  EXPECT_EQ(command_line(GuestCommand(Words{"echo", "a b"}), "mark"), "printf '%s %s\\n' 'mark' $$ >&2\nexec 'echo' 'a b'");
}

TEST(CommandLineTest, SetsFolderAndVariables) {
  GuestCommand command(Words{"env", "-u", "X"});
  command.working_directory = "/a b";
  command.environment = {{"NAME", "it's"}};
  EXPECT_EQ(command_line(command, "m"),
            "printf '%s %s\\n' 'm' $$ >&2\ncd '/a b' || exit 126\nexport NAME='it'\\''s'\nexec 'env' '-u' 'X'");
}

TEST(CommandLineTest, KeepsARelativeFolderFromBeingAnOption) {
  GuestCommand command("true");
  command.working_directory = "-P";
  EXPECT_NE(command_line(command, "m").find("cd './-P' ||"), std::string::npos);
}

TEST(CommandLineTest, RefusesNamesThatAreNoVariables) {
  GuestCommand command("true");
  command.environment = {{"A;reboot", "x"}};
  EXPECT_THROW((void)command_line(command, "m"), Error);
}

TEST(CommandLineTest, RefusesNulBytes) { EXPECT_THROW((void)command_line(GuestCommand(std::string("a\0b", 3)), "m"), Error); }

TEST(CommandLineTest, RefusesNothing) { EXPECT_THROW((void)command_line(GuestCommand(Words{}), "m"), Error); }

TEST(CommandLineTest, RefusesAProgramThatLooksLikeAnOption) {
  EXPECT_THROW((void)command_line(GuestCommand(Words{"-c", "x"}), "m"), Error);
}

TEST(CommandLineTest, DisplayLeavesOutValuesOfVariables) {
  GuestCommand command("true");
  command.environment = {{"TOKEN", "secret"}};
  EXPECT_EQ(display(command).find("secret"), std::string::npos);
}

}  // namespace
}  // namespace vmtest::ssh
