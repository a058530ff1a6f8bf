#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "image.h"
#include "vmtest/host/directories.h"
#include "vmtest/vm_test.h"

namespace vmtest {

/// Boots that must fail, on `tiny`: says how they did and what they left.
class BootFailureTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::require_image("tiny"); }
  /// Boots what must not boot and returns what the error says.
  std::string failure(VmSpec spec) {
    spec.name = "failing-" + std::to_string(::getpid());
    try {
      const Vm vm = Vm::boot(spec, {.evidence_dir = folder_.path() / "evidence"});
      return "(it booted)";
    } catch (const std::exception& error) {
      evidence_ = folder_.path() / "evidence" / spec.name;
      work_dir_ = data_dir() / "vms" / spec.name;
      return error.what();
    }
  }
  void expect_nothing_left() const { EXPECT_FALSE(std::filesystem::exists(work_dir_)); }
  /// Commands that put something in the way of a test, as guest set-up.
  static VmSpec with_setup(std::vector<std::string> commands) {
    VmSpec spec;
    spec.setup_commands = std::move(commands);
    return spec;
  }

  TemporaryDirectory folder_;
  std::filesystem::path evidence_;
  std::filesystem::path work_dir_;
};

}  // namespace vmtest
