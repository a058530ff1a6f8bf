#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "vmtest/deadline.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/process.h"

namespace vmtest::cli {

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Runs `vmtest` as users do, with a home of its own.
class CliTest : public ::testing::Test {
 protected:
  ToolResult vmtest(const std::vector<std::string>& arguments, std::map<std::string, std::string> environment = {}) {
    std::vector<std::string> argv = {VMTEST_CLI};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    environment.insert({"VMTEST_HOME", home_.string()});
    return exec_tool(argv, Deadline::after(std::chrono::seconds(90)), environment);
  }

  TemporaryDirectory folder_;
  std::filesystem::path home_ = folder_.path() / "home";
};

}  // namespace vmtest::cli
