#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "cli11.h"
#include "exit_codes.h"
#include "subcommand.h"
#include "vm_inventory.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"

namespace vmtest::cli {
namespace {

struct SshOptions {
  std::string name;
  std::vector<std::string> command;
};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// OpenSSH's command line for a VM: its own key and host key, nothing of the user's configuration.
std::vector<std::string> ssh_command(const VmEntry& vm, const std::vector<std::string>& command) {
  const VmHandle& handle = vm.handle.value();
  const auto& folder = handle.work_dir;
  const bool forwarded = handle.ssh_port != 0;
  std::string address = "127.0.0.1";
  if (!forwarded) {
    if (handle.static_address.empty()) {
      throw Error("VM \"" + vm.name() +
                  "\" has neither a forwarded port nor a known address; its console is reached by: vmtest " + "console " +
                  vm.name());
    }
    address = handle.static_address.substr(0, handle.static_address.find('/'));
  }
  std::vector<std::string> argv = {"ssh",
                                   "-F",
                                   "none",
                                   "-i",
                                   (folder / "id_ed25519").string(),
                                   "-o",
                                   "IdentitiesOnly=yes",
                                   "-o",
                                   "StrictHostKeyChecking=yes",
                                   "-o",
                                   "UserKnownHostsFile=" + (folder / "known_hosts").string(),
                                   "-o",
                                   "GlobalKnownHostsFile=/dev/null",
                                   "-o",
                                   "LogLevel=ERROR",
                                   "-p",
                                   std::to_string(forwarded ? handle.ssh_port : 22),
                                   "-l",
                                   first_line(read_file(folder / "user")),
                                   address};
  if (!command.empty()) argv.push_back("--");
  argv.insert(argv.end(), command.begin(), command.end());
  return argv;
}

int run(const SshOptions& options) {
  std::vector<std::string> argv = ssh_command(find_vm(options.name), options.command);
  const auto program = find_program("ssh");
  if (!program) throw Error("the OpenSSH client is not installed; get it with: apt-get install openssh-client");
  std::vector<char*> pointers;
  for (std::string& word : argv) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::execv(program->c_str(), pointers.data());
  throw_errno("cannot start " + program->string());
}

}  // namespace

void add_ssh(CLI::App& app, Action& action) {
  const auto options = std::make_shared<SshOptions>();
  app.add_option("name", options->name, "Name of the VM, see `vmtest ps`")->required()->type_name("NAME");
  app.add_option("command", options->command, "Command for the guest's shell; an interactive one when there is none")
      ->type_name("COMMAND");
  app.footer(
      "vmtest ssh NAME [-- COMMAND...]\n\nExit codes are OpenSSH's (the command's, or 255); 2 a wrong command line, 3 there is "
      "no such VM.");
  app.final_callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace vmtest::cli
