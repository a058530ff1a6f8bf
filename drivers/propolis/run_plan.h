#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "host_plan.h"

namespace vmtest::propolis {

/// Where the journals of this user's runs are. A run holds the lock of its own, the journal's name and this suffix.
[[nodiscard]] std::filesystem::path journals_dir();
inline constexpr const char* kJournalLockSuffix = ".lock";
/// Why a journal is there although its run has ended: what could not be taken back, in words.
[[nodiscard]] std::string why_left(const std::filesystem::path& journal);

/// One run of one VM, as the driver hands it to the keeper: a file of JSON.
struct RunPlan {
  /// The server to start: its program and boot ROM. Empty: one runs at `host` and `port`, or will once the steps are done.
  std::filesystem::path program = {};
  std::filesystem::path bootrom = {};
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;
  /// Receives what a server of ours says.
  std::filesystem::path server_log = {};
  /// The body of PUT /instance, of the newest version known here.
  std::filesystem::path body = {};
  std::filesystem::path console_log = {};
  std::filesystem::path console_socket = {};
  /// Written when the guest runs, see RunningServer.
  std::filesystem::path running = {};
  /// Done before, taken back after, however the run ends. The journal says which are done; it is there as long as some are.
  std::vector<Step> steps = {};
  std::filesystem::path journal = {};
  /// Whether the guest boots by a startup script of ours, see EfiDisk.
  bool startup_script = false;
  /// How long a server may take to be up, and for each answer.
  std::chrono::seconds patience{20};
};
[[nodiscard]] std::string to_json(const RunPlan& plan);
/// Throws Error when `text` is none.
[[nodiscard]] RunPlan parse_run_plan(const std::string& text);

/// Where the server of a running guest is.
struct RunningServer {
  std::string host;
  std::uint16_t port = 0;
  /// The version of the API that it is asked by.
  std::string version;
};
[[nodiscard]] std::string to_json(const RunningServer& server);
[[nodiscard]] RunningServer parse_running_server(const std::string& text);

}  // namespace vmtest::propolis
