#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http/json_api.h"
#include "vmtest/deadline.h"

namespace vmtest::vz_driver {

/// The framework's states of a VM.
enum class State { Stopped, Running, Paused, Error, Starting, Pausing, Resuming, Stopping, Saving, Restoring };

/// The VZ helper's API (vz/helper/api.md), as far as the driver calls it. Beside what JsonApi throws, all throw Unsupported when
/// the host's system or processor does not offer what was asked for. May be used by several threads at once.
class ApiClient {
 public:
  explicit ApiClient(std::filesystem::path socket) : api_("the VZ helper", std::move(socket)) {}

  /// Throws Error unless a helper answers that speaks this version of the API.
  void ping(const Deadline& deadline) const;
  /// Ends the process, without a word to the guest.
  void shutdown(const Deadline& deadline) const { put("vmm.shutdown", deadline); }
  void create(const nlohmann::json& config, const Deadline& deadline) const;
  void boot(const Deadline& deadline) const { put("vm.boot", deadline); }
  void pause(const Deadline& deadline) const { put("vm.pause", deadline); }
  void resume(const Deadline& deadline) const { put("vm.resume", deadline); }
  void press_power_button(const Deadline& deadline) const { put("vm.power-button", deadline); }
  /// Paused, and stays so.
  void save(const std::filesystem::path& file, const Deadline& deadline) const;
  /// Stopped, then Paused.
  void restore(const std::filesystem::path& file, const Deadline& deadline) const;
  void attach_usb_disk(const nlohmann::json& disk, const Deadline& deadline) const;
  void detach_usb_disk(const std::string& id, const Deadline& deadline) const;
  [[nodiscard]] State state(const Deadline& deadline) const;

 private:
  void put(const char* endpoint, const Deadline& deadline) const;
  void put(const char* endpoint, const nlohmann::json& body, const Deadline& deadline) const;

  JsonApi api_;
};

/// A line of the helper's event file.
struct Event {
  /// "guest-stopped", "stopped-with-error", "exit" ...
  std::string name;
  /// Why, where it says so: the framework's errors, outermost first.
  std::string why = {};

  bool operator==(const Event&) const = default;
};
/// All whole lines; what is no event is left out.
[[nodiscard]] std::vector<Event> parse_events(std::string_view text);

}  // namespace vmtest::vz_driver
