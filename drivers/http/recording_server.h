#pragma once

#include <httplib.h>
#include <sys/socket.h>

#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

namespace vmtest::testing {

/// A server that writes down what it is asked and gives the answer it was told to.
class RecordingServer {
 public:
  explicit RecordingServer(const std::filesystem::path& socket) {
    const auto record = [this](const httplib::Request& request, httplib::Response& response) {
      const std::lock_guard lock(mutex_);
      asked_ = request.method + " " + request.path;
      body_ = request.body.empty() ? nlohmann::json() : nlohmann::json::parse(request.body);
      response.status = status_;
      if (!answer_.empty()) response.set_content(answer_, "application/json");
    };
    server_.Get(".*", record);
    server_.Put(".*", record);
    server_.set_address_family(AF_UNIX);
    if (!server_.bind_to_port(socket.string(), 80)) throw std::runtime_error("cannot listen on " + socket.string());
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~RecordingServer() {
    server_.stop();
    thread_.join();
  }
  RecordingServer(const RecordingServer&) = delete;
  RecordingServer& operator=(const RecordingServer&) = delete;

  void answer(int status, std::string text = {}) {
    const std::lock_guard lock(mutex_);
    status_ = status;
    answer_ = std::move(text);
  }
  /// "PUT /api/v1/vm.boot"
  std::string asked() {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  nlohmann::json body() {
    const std::lock_guard lock(mutex_);
    return body_;
  }

 private:
  std::mutex mutex_;
  int status_ = 204;
  std::string answer_;
  std::string asked_;
  nlohmann::json body_;
  httplib::Server server_;
  std::thread thread_;
};

}  // namespace vmtest::testing
