#include "startup_prompt.h"

#include <gtest/gtest.h>

namespace vmtest::propolis {
namespace {

/// As OVMF's shell prints it.
std::string prompt(const std::string& seconds) {
  return "\x1b[11;01HPress \x1b[1m\x1b[37m\x1b[40mESC\x1b[0m\x1b[37m\x1b[40m in " + seconds +
         " seconds to skip \x1b[1m\x1b[33m\x1b[40mstartup.nsh\x1b[0m\x1b[37m\x1b[40m or any other key to continue.";
}

/// How many pieces of one byte each told of a wait.
int waits_in(const std::string& shown) {
  StartupPrompt prompt;
  int waits = 0;
  for (const char byte : shown) waits += prompt.take({&byte, 1}) ? 1 : 0;
  return waits;
}

TEST(StartupPromptTest, IsFoundAmongEscapeSequences) {
  StartupPrompt found;
  EXPECT_TRUE(found.take("Alias(s):\x1b[0m\r\n" + prompt("5")));
}

TEST(StartupPromptTest, IsFoundInPieces) { EXPECT_EQ(waits_in("BLK0: Alias(s):\r\n" + prompt("5")), 1); }

TEST(StartupPromptTest, CountdownIsOneWait) {
  EXPECT_EQ(waits_in(prompt("5") + prompt("4") + prompt("3") + prompt("2") + prompt("1")), 1);
}

TEST(StartupPromptTest, EachBootWaits) {
  EXPECT_EQ(waits_in(prompt("5") + "\r\nLinux\r\n" + prompt("5") + prompt("4") + "\r\nLinux\r\n" + prompt("5")), 3);
}

TEST(StartupPromptTest, LongerWaitIsOneToo) { EXPECT_EQ(waits_in(prompt("11") + prompt("10") + prompt("9")), 1); }

TEST(StartupPromptTest, OtherTextIsNone) {
  EXPECT_EQ(waits_in("Press ESC in 5 seconds to skip another.nsh\r\n in 5 seconds to skip startup.nsh Press ESC"), 0);
}

}  // namespace
}  // namespace vmtest::propolis
