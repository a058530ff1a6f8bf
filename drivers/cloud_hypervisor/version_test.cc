#include "version.h"

#include <gtest/gtest.h>

#include "failure.h"
#include "vmtest/error.h"

namespace vmtest::cloud_hypervisor {
namespace {

TEST(CloudHypervisorVersionNumberTest, OldestIsTakenAndWhatIsOlderIsNot) {
  EXPECT_NO_THROW(require_version("51.0.0"));
  EXPECT_NO_THROW(require_version("100.0"));
  EXPECT_THROW(require_version("50.2.0"), Unsupported);
}

TEST(CloudHypervisorVersionNumberTest, WhatIsNoneIsQuoted) {
  EXPECT_EQ(testing::failure_of([] { require_version("nightly"); }),
            "Cloud Hypervisor calls its version \"nightly\", which is none");
  EXPECT_THROW(require_version("53"), Error);
  EXPECT_THROW(require_version(""), Error);
}

TEST(CloudHypervisorVersionNumberTest, TellsTheWayOfMigrating) {
  EXPECT_EQ(migration_way("51.1.0"), (MigrationWay{.takes_limits = false, .answers_at_once = false}));
  EXPECT_EQ(migration_way("52.0.0"), (MigrationWay{.takes_limits = true, .answers_at_once = false}));
  EXPECT_EQ(migration_way("53.0.0"), (MigrationWay{.takes_limits = true, .answers_at_once = true}));
  EXPECT_EQ(migration_way("54.0.0"), migration_way("53.0.0"));
  EXPECT_THROW((void)migration_way("48.0.0"), Unsupported);
}

}  // namespace
}  // namespace vmtest::cloud_hypervisor
