#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "image.h"
#include "vmtest/vm_test.h"

namespace vmtest {

/// Sets an environment variable while it lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_) ::setenv(name_, before_->c_str(), 1);
    else ::unsetenv(name_);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

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
