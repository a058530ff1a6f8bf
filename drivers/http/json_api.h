#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "vmtest/deadline.h"
#include "vmtest/error.h"
#include "vmtest/host/http_client.h"

namespace vmtest {

/// A hypervisor's server refused a request: `what()` has its own words, the outermost first.
class Refused : public Error {
 public:
  Refused(int status, const std::string& what) : Error(what), status_(status) {}
  /// HTTP's. Versions of Cloud Hypervisor differ: a VM that is not there is a 404 since v53, a duplicate id a 409 only after it;
  /// both were 500.
  [[nodiscard]] int status() const { return status_; }

 private:
  int status_;
};

/// Calls of a server that takes and gives JSON below /api/v1 on a Unix socket, as Cloud Hypervisor's and the VZ helper's do. All
/// throw Refused when it refuses, Timeout when it does not answer by the deadline, std::system_error when nobody listens and
/// Error when what comes is no answer. May be used by several threads at once.
class JsonApi {
 public:
  /// `title` is the server's name for people: "Cloud Hypervisor".
  JsonApi(const char* title, std::filesystem::path socket) : title_(title), http_(HttpClient::unix_socket(std::move(socket))) {}

  [[nodiscard]] const char* title() const { return title_; }
  void put(const char* endpoint, const Deadline& deadline) const;
  void put(const char* endpoint, const nlohmann::json& body, const Deadline& deadline) const;
  /// A JSON object.
  [[nodiscard]] nlohmann::json get(const char* endpoint, const Deadline& deadline) const;
  [[nodiscard]] HttpReply ask(const char* method, const char* endpoint, const std::string& body, const Deadline& deadline) const;

 private:
  const char* title_;
  HttpClient http_;
};

/// The words of a refusal, which is an array of strings, the outermost first; anything else as it is, made harmless to show.
[[nodiscard]] std::string words_of_refusal(const std::string& body);

}  // namespace vmtest
