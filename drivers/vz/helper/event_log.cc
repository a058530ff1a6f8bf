#include "event_log.h"

#include <fcntl.h>

#include <chrono>
#include <cstdio>
#include <exception>

namespace vmtest::vz {

EventLog::EventLog(const std::string& path) : file_(open_file(path, O_WRONLY | O_CREAT | O_APPEND)) {}

void EventLog::record(const std::string& event, nlohmann::json details) {
  if (!file_) return;
  details["event"] = event;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  details["time"] = std::chrono::duration<double>(now).count();
  // Messages of the system need not be UTF-8.
  const std::string line = details.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  const std::lock_guard lock(mutex_);
  try {
    write_all(file_.get(), line);
  } catch (const std::exception& error) {
    // A full disk must not end the VM.
    std::fprintf(stderr, "vmtest-vz-helper: event %s is lost: %s\n", event.c_str(), error.what());
  }
}

}  // namespace vmtest::vz
