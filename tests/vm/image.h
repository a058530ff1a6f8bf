#pragma once

#include <gtest/gtest.h>

#include "vmtest/vm_test.h"

namespace vmtest::testing {

/// Skips the test, with the mend, where an image is not built. From SetUp(), which goes on: ask IsSkipped().
inline void require_image(const char* name) {
  try {
    (void)ImageChoice(name).resolve(Architecture::X86_64);
  } catch (const Unsupported& reason) {
    GTEST_SKIP() << reason.what();
  }
}

}  // namespace vmtest::testing
