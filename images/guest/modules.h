#pragma once

#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace vmtest::guest {

/// The dependency and alias tables of one folder of kernel modules, as depmod writes them (modules.dep(5)). Reading the tables
/// loads nothing. It keeps the texts and looks into them, since taking every line apart costs an emulated boot a tenth of a
/// second.
class ModuleTable {
 public:
  /// From the texts of modules.dep and modules.alias.
  ModuleTable(std::string dependencies, std::string aliases);
  ModuleTable(const ModuleTable&) = delete;
  ModuleTable& operator=(const ModuleTable&) = delete;

  /// Paths relative to the folder, in the order of loading, the module itself last. Empty when it is not there.
  [[nodiscard]] std::vector<std::string> load_order(std::string_view name) const;
  /// Names of the modules whose alias patterns match a device's modalias.
  [[nodiscard]] std::vector<std::string> find_by_alias(const std::string& modalias) const;

 private:
  const std::string dependencies_;
  const std::string aliases_;
  /// Name to its line in modules.dep.
  std::unordered_map<std::string, std::string_view> lines_;
  /// Lines "PATTERN MODULE" by the pattern's bus ("pci", "virtio", ...).
  std::unordered_map<std::string_view, std::vector<std::string_view>> patterns_;
};

/// The name a module goes by in the kernel: no folder, no ".ko", '_' for '-'.
[[nodiscard]] std::string module_name(std::string_view path);

/// Loads modules into the running kernel. Not for use by several threads.
class ModuleLoader {
 public:
  /// `folder` holds modules.dep, modules.alias and the modules; without the tables every lookup comes back empty.
  explicit ModuleLoader(std::string folder);

  /// Loads a module after those it depends on. True when it is in the kernel afterwards; reports what the kernel refuses.
  bool load(std::string_view name);
  /// Loads what drives a device.
  void load_for_device(const std::string& modalias);

 private:
  bool insert(const std::string& path);

  std::string folder_;
  ModuleTable table_;
  std::set<std::string> loaded_;
};

}  // namespace vmtest::guest
