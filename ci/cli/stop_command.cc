#include <fmt/format.h>

#include <memory>
#include <string>

#include "cli11.h"
#include "exit_codes.h"
#include "subcommand.h"
#include "vm_inventory.h"
#include "vmtest/error.h"

namespace vmtest::cli {
namespace {

struct StopOptions {
  std::string name;
  bool force = false;
};

int stop(const StopOptions& options) {
  const VmEntry vm = find_vm(options.name);
  if (!vm.status)
    throw Error("the supervisor of VM \"" + options.name + "\" does not answer; end its process " +
                std::to_string(vm.handle.value().supervisor_pid) + " and run: vmtest gc");
  if (vm.status->owned && !options.force)
    throw Error("VM \"" + options.name + "\" belongs to a running process; --force ends it all the same");
  SupervisorConnection::connect(vm.handle.value().supervisor_socket())->end();
  fmt::print("VM \"{}\" has ended\n", options.name);
  return kSuccess;
}

}  // namespace

void add_stop(CLI::App& app, Action& action) {
  const auto options = std::make_shared<StopOptions>();
  app.add_option("name", options->name, "Name of the VM, see `vmtest ps`")->required()->type_name("NAME");
  app.add_flag("--force", options->force, "End it although a running process owns it");
  app.footer(
      "The VM is gone when this returns: processes, sockets, ports, files.\n"
      "Exit codes: 0 the VM has ended, 2 a wrong command line, 3 there is no such VM, or it was not ended: it belongs to a "
      "running\n"
      "process, or its supervisor does not answer.");
  app.final_callback([options, &action] { action = [options] { return stop(*options); }; });
}

}  // namespace vmtest::cli
