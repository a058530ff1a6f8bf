#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli11.h"
#include "exit_codes.h"
#include "subcommand.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"
#include "vmtest/vm.h"

namespace vmtest::cli {
namespace {

struct ExecOptions {
  std::string image = "tiny";
  unsigned memory_mib = 256;
  unsigned vcpus = 1;
  unsigned timeout = 600;
  bool standard_input = false;
  bool quiet = false;
  std::vector<std::string> pushes;
  std::vector<std::string> command;
};

/// Where "HOST:GUEST" divides: the guest's path is absolute, so at the last ":/".
std::size_t push_divider(const std::string& text) { return text.rfind(":/"); }

/// What is wrong with it, as CLI11 wants it told: empty for nothing.
std::string push_problem(const std::string& text) {
  const std::size_t colon = push_divider(text);
  return colon == std::string::npos || colon == 0 ? text + " must be HOST_PATH:/GUEST/PATH" : "";
}

std::pair<std::string, std::string> split_push(const std::string& text) {
  const std::size_t colon = push_divider(text);
  return {text.substr(0, colon), text.substr(colon + 1)};
}

std::string read_standard_input() {
  std::string text;
  std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t count = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (count < 0) throw_errno("cannot read standard input");
    if (count == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(count));
  }
}

/// A signal's number in the guest, as Linux has it on all architectures vmtest knows; 0 for one without a name here.
int guest_signal_number(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, int>, 14> kSignals = {{{"HUP", 1},
                                                                          {"INT", 2},
                                                                          {"QUIT", 3},
                                                                          {"ILL", 4},
                                                                          {"TRAP", 5},
                                                                          {"ABRT", 6},
                                                                          {"BUS", 7},
                                                                          {"FPE", 8},
                                                                          {"KILL", 9},
                                                                          {"USR1", 10},
                                                                          {"SEGV", 11},
                                                                          {"USR2", 12},
                                                                          {"PIPE", 13},
                                                                          {"TERM", 15}}};
  for (const auto& [signal, number] : kSignals) {
    if (signal == name) return number;
  }
  return 0;
}

/// Passes output on. Output that nobody reads any more is dropped; the command's end is what counts then.
OutputCallback pass_to(int descriptor) {
  return [descriptor](std::string_view text) {
    try {
      write_all(descriptor, text);
    } catch (const std::exception&) {  // the reader is gone
    }
  };
}

int exec(const ExecOptions& options) {
  std::vector<std::pair<std::string, std::string>> pushes;
  for (const std::string& push : options.pushes) pushes.push_back(split_push(push));
  VmSpec spec;
  spec.name = "exec-" + random_hex(8);
  spec.image = options.image;
  spec.memory_mib = options.memory_mib;
  spec.vcpus = options.vcpus;
  Vm vm = Vm::boot(spec);
  if (!options.quiet) fmt::print(stderr, "vmtest exec: VM \"{}\" is ready ({})\n", vm.name(), to_string(vm.boot_phases()));
  for (const auto& [host_path, guest_path] : pushes) vm.push(host_path, guest_path);

  GuestCommand command(options.command);
  command.timeout = std::chrono::seconds(options.timeout);
  command.output_limit = 0;  // it is passed on, not kept
  command.on_stdout = pass_to(STDOUT_FILENO);
  command.on_stderr = pass_to(STDERR_FILENO);
  if (options.standard_input) command.standard_input = read_standard_input();
  const CommandResult result = vm.exec(command);
  if (result.exit_code) return *result.exit_code;
  fmt::print(stderr, "vmtest exec: the command was ended by signal {}\n", sanitize_console(result.signal));
  return kSignalBase + guest_signal_number(result.signal);
}

}  // namespace

void add_exec(CLI::App& app, Action& action) {
  const auto options = std::make_shared<ExecOptions>();
  app.add_option("--image", options->image, "Image to boot")->capture_default_str();
  app.add_option("--memory", options->memory_mib, "Memory in MiB")->capture_default_str()->check(CLI::Range(64U, 1U << 20));
  app.add_option("--cpus", options->vcpus, "Number of vCPUs")->capture_default_str()->check(CLI::Range(1U, 255U));
  app.add_option("--timeout", options->timeout, "Seconds that the command may take")
      ->capture_default_str()
      ->check(CLI::Range(1U, 86400U));
  app.add_option("--push", options->pushes, "Copy a host file or folder into the guest first (HOST:/GUEST); may be repeated")
      ->allow_extra_args(false)
      ->type_name("HOST:GUEST")
      ->check(push_problem);
  app.add_flag("--stdin", options->standard_input, "Give what comes on standard input to the command");
  app.add_flag("-q,--quiet", options->quiet, "Say nothing but what the command says");
  app.add_option("command", options->command,
                 "Several words: a program and its arguments, as they are. One: a line for the guest's shell")
      ->required()
      ->type_name("COMMAND");
  app.footer(
      "vmtest exec [OPTIONS] -- COMMAND...\n\nOutput and exit code are the command's. Exit codes beside these: 2 a wrong command "
      "line, 125 the VM or the way\n"
      "to it failed, 128+N the command was ended by signal N. The VM is gone afterwards, however this ends.\n"
      "Example: vmtest exec --image debian-12 --push ./build:/tmp/build -- /tmp/build/tests");
  app.final_callback([options, &action] { action = [options] { return exec(*options); }; });
}

}  // namespace vmtest::cli
