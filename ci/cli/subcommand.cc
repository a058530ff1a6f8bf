#include "subcommand.h"

#include <array>

#include "exit_codes.h"

namespace vmtest::cli {
namespace {

constexpr std::array kSubcommands{
    Subcommand{"run", "Run GoogleTest programs, one process per test, with time limits and boot times", add_run, kInfrastructure},
    Subcommand{"exec", "Run a command in a fresh VM", add_exec, kExecInfrastructure},
    Subcommand{"image", "Build, list, check and remove images", add_image, kInfrastructure},
    Subcommand{"template", "List, check and remove templates, the frozen guests that VMs continue from", add_template,
               kInfrastructure},
    Subcommand{"ps", "List VMs", add_ps, kInfrastructure},
    Subcommand{"ssh", "Get a shell in a running VM, or run a command there", add_ssh, kInfrastructure},
    Subcommand{"console", "Attach to the serial console of a running VM", add_console, kInfrastructure},
    Subcommand{"stop", "End a VM that was kept", add_stop, kInfrastructure},
    Subcommand{"gc", "Remove what crashed VMs and builds left", add_gc, kInfrastructure},
    Subcommand{"doctor", "Try everything that vmtest needs of this host", add_doctor, kInfrastructure},
};

}  // namespace

std::span<const Subcommand> subcommands() { return kSubcommands; }

}  // namespace vmtest::cli
