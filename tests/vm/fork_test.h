#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string>

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
    try {
      (void)ImageChoice("tiny").resolve(Architecture::X86_64);
    } catch (const Unsupported& reason) {
      GTEST_SKIP() << reason.what();
    }
    mode_.emplace("VMTEST_FORK", "require");
  }

  std::optional<Variable> mode_;
};

}  // namespace vmtest
