#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "console_relay.h"
#include "protocol.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest::supervisor {

/// What a supervisor is told on its command line.
struct Options {
  std::string name;
  std::filesystem::path work_dir;
  std::filesystem::path runtime_dir;
  std::filesystem::path evidence_dir;
  pid_t owner_pid = -1;
  unsigned long long owner_start_time = 0;
};

/// How a child is started anew.
struct Restart {
  ProcessOptions options;
  /// The child's own copies; gone with it, so that who connects to its socket then is refused.
  std::vector<FileDescriptor> descriptors;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  /// Starts in a row that ended at once.
  int short_lives = 0;
};

/// The supervisor's event loop: parent of the VM's processes, holder of its leases, remover of its folders.
/// Single-threaded: a parent-death signal fires when the thread that forked ends.
class Supervisor {
 public:
  /// Makes the folders and the socket, takes `owner` as the owner's connection. Throws when it cannot; nothing is left then.
  Supervisor(Options options, FileDescriptor owner);
  ~Supervisor();

  /// Serves until the VM ends. Everything of it is gone on return.
  void run();

 private:
  struct Connection {
    FileDescriptor socket;
    LineBuffer lines;
    bool owner = false;
    bool wants_end_reply = false;
  };
  struct Child {
    ChildProcess process;
    std::filesystem::path log;
    /// None: it is not.
    std::optional<Restart> restart = std::nullopt;
    /// Set when it has ended and its epilogue has, too.
    std::optional<ExitStatus> status = std::nullopt;
    std::vector<std::string> epilogue = {};
    /// Name of the child that cannot do without this one; empty: none.
    std::string needed_by = {};
    /// Whether it was told to end since that one had ended.
    bool told = false;
    /// The end of a child that this one could not do without; null unless it was killed for it.
    nlohmann::json cause = {};
    /// Set when it has ended, but its epilogue runs.
    std::optional<ExitStatus> ended = std::nullopt;
    ChildProcess undoing = {};
  };

  /// Makes a folder (0700) that goes with the VM; false when something is there already, which stays as it is.
  bool make_folder(const std::filesystem::path& folder);
  void add_connection(FileDescriptor socket);
  void wait_for_something();
  void serve(Connection& connection);
  nlohmann::json answer(Connection& connection, const nlohmann::json& request);
  nlohmann::json spawn(const nlohmann::json& request);
  /// Gives a process the name of one that has ended.
  nlohmann::json rename(const std::string& from, const std::string& to);
  nlohmann::json status() const;
  void tell(const nlohmann::json& event);
  /// Starts a child that has ended anew, if it is one for that. Says whether it did.
  bool start_anew(const std::string& name, Child& child);
  nlohmann::json exit_event(const std::string& name) const;
  void reap();
  /// How a child and its epilogue ended; none while one of them runs.
  std::optional<ExitStatus> poll(Child& child);
  [[nodiscard]] ChildProcess start_epilogue(const Child& child) const;
  void finish_epilogues();
  /// Ends who depends on a child that has ended: the one that needs it, or those that it needed.
  void end_dependents(const std::string& name);
  void owner_is_gone();
  void watch_owner(pid_t pid, std::optional<unsigned long long> start_time);
  void end_processes();
  void save_evidence();
  void remove_folders();

  Options options_;
  std::vector<std::filesystem::path> folders_;
  FileDescriptor listener_;
  FileDescriptor signals_;
  FileDescriptor owner_process_;
  std::list<Connection> connections_;
  std::map<std::string, FileDescriptor> held_;
  std::map<std::string, Child> children_;
  ConsoleRelay console_;
  bool kept_ = false;
  bool ending_ = false;
  bool save_evidence_ = false;
  std::string cause_;
};

}  // namespace vmtest::supervisor
