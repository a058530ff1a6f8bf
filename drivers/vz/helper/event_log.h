#pragma once

#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

#include "descriptor.h"

namespace vmtest::vz {

/// Appends one JSON line for each event to a file, written at once. Several threads may record.
class EventLog {
 public:
  /// No file: events are dropped.
  EventLog() = default;
  /// Opens or makes the file. Throws std::system_error.
  explicit EventLog(const std::string& path);

  /// `details` is an object; "event" and "time" (seconds since the epoch) are added to it.
  void record(const std::string& event, nlohmann::json details = nlohmann::json::object());

 private:
  std::mutex mutex_;
  Descriptor file_;
};

}  // namespace vmtest::vz
