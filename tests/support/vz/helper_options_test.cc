#include <gtest/gtest.h>

#include "options.h"

namespace vmtest::vz {
namespace {

TEST(HelperOptionsTest, TakeAllThatThereAre) {
  const Options options = parse_options({"--api-socket", "/s", "--event-file", "/e", "--owner-fd", "0", "--stay"});
  EXPECT_EQ(options.api_socket, "/s");
  EXPECT_EQ(options.event_file, "/e");
  EXPECT_EQ(options.owner_fd, 0);
  EXPECT_EQ(options.after_guest, AfterGuest::Stay);
}

TEST(HelperOptionsTest, EndWithTheGuestUnlessToldOtherwise) {
  EXPECT_EQ(parse_options({"--api-socket", "/s"}).after_guest, AfterGuest::Exit);
}

TEST(HelperOptionsTest, CapabilitiesNeedNoSocket) { EXPECT_TRUE(parse_options({"--capabilities"}).capabilities); }

TEST(HelperOptionsTest, RefuseWhatIsWrong) {
  EXPECT_THROW((void)parse_options({"--capabilities", "--stay"}), UsageError);
  EXPECT_THROW((void)parse_options({}), UsageError);
  EXPECT_THROW((void)parse_options({"--api-socket"}), UsageError);
  EXPECT_THROW((void)parse_options({"--api-socket", "/s", "--verbose"}), UsageError);
  EXPECT_THROW((void)parse_options({"--api-socket", "/s", "--owner-fd", "x"}), UsageError);
  EXPECT_THROW((void)parse_options({"--api-socket", "/s", "--owner-fd", "987654"}), UsageError);
}

}  // namespace
}  // namespace vmtest::vz
