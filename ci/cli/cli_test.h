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

/// Runs `vmtest` as users do, with a home and a temporary folder of its own.
class CliTest : public ::testing::Test {
 protected:
  CliTest() { std::filesystem::create_directory(temporary_); }
  ToolResult vmtest(const std::vector<std::string>& arguments, std::map<std::string, std::string> environment = {}) {
    std::vector<std::string> argv = {VMTEST_CLI};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    environment.insert(environment_.begin(), environment_.end());
    return exec_tool(argv, Deadline::after(std::chrono::seconds(90)), environment);
  }

  TemporaryDirectory folder_;
  std::filesystem::path home_ = folder_.path() / "home";
  std::filesystem::path temporary_ = folder_.path() / "tmp";
  std::map<std::string, std::string> environment_ = {{"VMTEST_HOME", home_.string()}, {"TMPDIR", temporary_.string()}};
};

}  // namespace vmtest::cli
