#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vmtest {

/// Some modules out of a kernel's whole set, closed under their dependencies, with the tables modprobe and the guest's PID 1
/// look things up in. Made from the modules' own .modinfo sections, so that no depmod is needed.
struct KernelModules {
  /// Paths below the module folder ("kernel/fs/ext4/ext4.ko"), sorted.
  std::vector<std::string> paths;
  /// Texts of modules.dep and modules.alias (modules.dep(5)).
  std::string dependencies;
  std::string aliases;
};

/// What a module's .modinfo section says. A plain value.
struct ModuleInfo {
  std::vector<std::string> depends;
  /// Modules to load before or after it when they are there ("softdep").
  std::vector<std::string> soft_depends;
  std::vector<std::string> aliases;
};

/// Reads the .modinfo section of a module, a 64-bit little-endian ELF file. Throws Error when it is none.
[[nodiscard]] ModuleInfo parse_module_info(std::string_view elf);

/// Picks modules by name ('-' and '_' count as the same) from `folder` (lib/modules/RELEASE). Names the kernel does not have
/// as modules are left out: many are built in, depending on its version. Throws Error when a dependency is missing.
[[nodiscard]] KernelModules select_modules(const std::filesystem::path& folder, std::span<const std::string_view> names);

}  // namespace vmtest
