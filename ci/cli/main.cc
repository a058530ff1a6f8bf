#include <csignal>
#include <cstdio>
#include <exception>

#include "cli11.h"
#include "exit_codes.h"
#include "subcommand.h"

namespace {

using vmtest::cli::Action;
using vmtest::cli::Subcommand;

int run_action(const Subcommand& chosen, const Action& action) {
  try {
    return action();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vmtest %s: %s\n", chosen.name, error.what());
    return chosen.failure_code;
  }
}

}  // namespace

int main(int argc, char** argv) {
  // A reader that went away (`vmtest ps | head -1`) is told by write's error.
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app{"Tests in real, disposable VMs.", "vmtest"};
  app.set_version_flag("--version", VMTEST_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 success, 1 tests or checks failed, 2 the command line cannot be meant, 3 something around the work\n"
      "failed. `vmtest SUBCOMMAND --help` says more.\n"
      "Files: $XDG_DATA_HOME/vmtest (images, VMs), $XDG_STATE_HOME/vmtest (evidence); VMTEST_HOME moves them.");
  Action action;
  for (const Subcommand& subcommand : vmtest::cli::subcommands()) {
    subcommand.add(*app.add_subcommand(subcommand.name, subcommand.summary), action);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::RequiredError& error) {
    // CLI11 misses a subcommand before it looks at the word that stands there.
    const auto words = app.remaining();
    if (app.get_subcommands().empty() && !words.empty()) {
      std::fprintf(stderr, "vmtest: there is no subcommand \"%s\"; see vmtest --help\n", words.front().c_str());
    } else {
      app.exit(error);
    }
    return vmtest::cli::kUsage;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? vmtest::cli::kSuccess : vmtest::cli::kUsage;
  }
  for (const Subcommand& subcommand : vmtest::cli::subcommands()) {
    if (app.got_subcommand(subcommand.name)) return run_action(subcommand, action);
  }
  return vmtest::cli::kUsage;
}
