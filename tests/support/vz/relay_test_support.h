#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include "wait.h"

namespace vmtest::vz {

/// A folder that goes with the test.
class RelayTest : public ::testing::Test {
 protected:
  RelayTest() {
    char name[] = "/tmp/vz-relay-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  ~RelayTest() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }

  /// Reads until `size` bytes have come, the stream has ended or ten seconds have passed.
  static std::string read_some(int fd, std::size_t size) {
    std::string data;
    pollfd entry{fd, POLLIN, 0};
    while (data.size() < size && ::poll(&entry, 1, 10'000) > 0) {
      char buffer[65536];
      const ssize_t count = ::read(fd, buffer, std::min(sizeof buffer, size - data.size()));
      if (count <= 0) break;
      data.append(buffer, static_cast<std::size_t>(count));
    }
    return data;
  }
  /// Whether the stream ends within ten seconds.
  static bool ends(int fd) {
    pollfd entry{fd, POLLIN, 0};
    char byte = 0;
    return ::poll(&entry, 1, 10'000) > 0 && ::read(fd, &byte, 1) <= 0;
  }

  template <class Condition>
  static bool comes(const Condition& condition) {
    return vmtest::testing::wait_until(condition, Deadline::after(std::chrono::seconds(10)));
  }

  std::filesystem::path folder_;
};

}  // namespace vmtest::vz
