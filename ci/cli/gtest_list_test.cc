#include "gtest_list.h"

#include <gtest/gtest.h>

namespace vmtest::cli {
namespace {

TEST(GtestListTest, ReadsSuitesAndTests) {
  const GtestListing listing = parse_gtest_list("Running main() from gtest_main.cc\nHello.\n  Works\n  Fails\nOther.\n  Works\n");
  const std::vector<GtestTest> expected = {{"Hello", "Works"}, {"Hello", "Fails"}, {"Other", "Works"}};
  EXPECT_EQ(listing.tests, expected);
}

TEST(GtestListTest, DropsCommentsOfTypedAndParameterisedTests) {
  const GtestListing listing = parse_gtest_list(
      "Typed/0.  # TypeParam = std::vector<int>\n  Grows\nAll/Ports.\n  Opens/0  # GetParam() = \"a. b  # c\"\n");
  const std::vector<GtestTest> expected = {{"Typed/0", "Grows"}, {"All/Ports", "Opens/0"}};
  EXPECT_EQ(listing.tests, expected);
}

TEST(GtestListTest, IgnoresWordsOfMain) {
  const GtestListing listing = parse_gtest_list("Starting up ...\n  with care\nS.\n  T\r\n  two words\n");
  const std::vector<GtestTest> expected = {{"S", "T"}};
  EXPECT_EQ(listing.tests, expected);
}

TEST(GtestListTest, MarksDisabledTests) {
  const GtestListing listing = parse_gtest_list("S.\n  DISABLED_T\nDISABLED_U.\n  V\nAll/DISABLED_W.\n  X/0\n");
  const std::vector<GtestTest> expected = {{"S", "DISABLED_T", true}, {"DISABLED_U", "V", true}, {"All/DISABLED_W", "X/0", true}};
  EXPECT_EQ(listing.tests, expected);
}

TEST(GtestListTest, EmptyOutputHasNoTests) { EXPECT_TRUE(parse_gtest_list("").tests.empty()); }

TEST(GtestListTest, KeepsSharedSuitesInOneUnit) {
  const auto units = make_units(parse_gtest_list("A.\n  One\n  Two\nB.\n  One\n  DISABLED_Two\n  Three\nvmtest-shared: B\n"));
  ASSERT_EQ(units.size(), 3U);
  EXPECT_EQ(units[0].filter(), "A.One");
  EXPECT_EQ(units[1].name, "A.Two");
  EXPECT_EQ(units[2].name, "B");
  EXPECT_TRUE(units[2].shared);
  EXPECT_EQ(units[2].filter(), "B.One:B.Three");
}

}  // namespace
}  // namespace vmtest::cli
