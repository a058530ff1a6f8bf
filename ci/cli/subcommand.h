#pragma once

#include <functional>
#include <span>
#include <string>

namespace CLI {
class App;
}

namespace vmtest::cli {

/// What a subcommand does once the command line is read; returns the exit code.
using Action = std::function<int()>;

/// One subcommand of `vmtest`.
struct Subcommand {
  const char* name;
  /// One line for the list of subcommands.
  const char* summary;
  /// Adds options and help to `app`, and sets `action` when the subcommand was chosen.
  void (*add)(CLI::App& app, Action& action);
  /// Exit code when the action throws.
  int failure_code;
};

/// All of them, in the order of the help text.
[[nodiscard]] std::span<const Subcommand> subcommands();

void add_run(CLI::App& app, Action& action);
void add_exec(CLI::App& app, Action& action);
void add_image(CLI::App& app, Action& action);
void add_template(CLI::App& app, Action& action);
void add_ps(CLI::App& app, Action& action);
void add_ssh(CLI::App& app, Action& action);
void add_console(CLI::App& app, Action& action);
void add_stop(CLI::App& app, Action& action);
void add_gc(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);

}  // namespace vmtest::cli
