#pragma once

#include <gtest/gtest.h>

#include <optional>

#include "image.h"
#include "variable.h"
#include "vmtest/vm_test.h"

namespace vmtest {

using testing::Variable;

/// Forks are demanded; the template is the user's.
class ForkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::require_image("tiny");
    if (IsSkipped()) return;
    mode_.emplace("VMTEST_FORK", "require");
  }

  std::optional<Variable> mode_;
};

}  // namespace vmtest
