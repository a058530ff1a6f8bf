#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vmtest::cloud_hypervisor {

/// What Cloud Hypervisor's event monitor says: `source` "vm" or "guest", `event` "booted" or "panic".
struct Event {
  std::string source;
  std::string event;

  bool operator==(const Event&) const = default;
};

/// Reads the event monitor's output as it grows: JSON objects of several lines each, one after another without anything between
/// that could be counted on. Not for several threads at once.
class EventStream {
 public:
  /// Takes what was written since and returns the events that are whole now. Text between objects is passed over, and an object
  /// that is no event or no JSON is left out.
  [[nodiscard]] std::vector<Event> take(std::string_view text);

 private:
  /// The object that is not whole yet.
  std::string object_;
  unsigned depth_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
};

}  // namespace vmtest::cloud_hypervisor
