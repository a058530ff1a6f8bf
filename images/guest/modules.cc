#include "guest/modules.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "guest/console.h"
#include "guest/files.h"

namespace vmtest::guest {
namespace {

/// The bus of a modalias or of a pattern for some: ACPI's start with "acpi*:".
std::string_view bus_of(std::string_view modalias) { return modalias.substr(0, modalias.find_first_of(":*?[")); }

/// Calls `visit` for each line without its end.
template <typename Visit>
void each_line(std::string_view text, Visit&& visit) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    visit(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

}  // namespace

std::string module_name(std::string_view path) {
  path.remove_prefix(path.rfind('/') + 1);
  if (path.size() > 3 && path.substr(path.size() - 3) == ".ko") {
    path.remove_suffix(3);
  }
  std::string name(path);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

ModuleTable::ModuleTable(std::string dependencies, std::string aliases)
    : dependencies_(std::move(dependencies)), aliases_(std::move(aliases)) {
  each_line(dependencies_, [this](std::string_view line) {
    if (const std::size_t colon = line.find(':'); colon != std::string_view::npos) {
      lines_[module_name(line.substr(0, colon))] = line;
    }
  });
  static constexpr std::string_view kAlias = "alias ";
  each_line(aliases_, [this](std::string_view line) {
    if (line.substr(0, kAlias.size()) == kAlias) {
      line.remove_prefix(kAlias.size());
      patterns_[bus_of(line)].push_back(line);
    }
  });
}

std::vector<std::string> ModuleTable::load_order(std::string_view name) const {
  std::vector<std::string> order;
  if (const auto found = lines_.find(module_name(name)); found != lines_.end()) {
    for (const std::string_view path : split(found->second, ": ")) {
      order.emplace_back(path);
    }
    // depmod lists what is needed last first.
    std::reverse(order.begin(), order.end());
  }
  return order;
}

std::vector<std::string> ModuleTable::find_by_alias(const std::string& modalias) const {
  std::vector<std::string> modules;
  const auto candidates = patterns_.find(bus_of(modalias));
  if (candidates == patterns_.end()) {
    return modules;
  }
  for (const std::string_view line : candidates->second) {
    const std::size_t literal = line.find_first_of("*?[ ");
    const std::size_t blank = line.find(' ');
    if (blank != std::string_view::npos && modalias.compare(0, literal, line.substr(0, literal)) == 0 &&
        fnmatch(std::string(line.substr(0, blank)).c_str(), modalias.c_str(), 0) == 0) {
      modules.emplace_back(line.substr(blank + 1));
    }
  }
  return modules;
}

ModuleLoader::ModuleLoader(std::string folder)
    : folder_(std::move(folder)),
      table_(find_file(folder_ + "/modules.dep").value_or(""), find_file(folder_ + "/modules.alias").value_or("")) {}

bool ModuleLoader::load(std::string_view name) {
  const std::vector<std::string> order = table_.load_order(name);
  return !order.empty() && std::all_of(order.begin(), order.end(), [this](const std::string& path) { return insert(path); });
}

bool ModuleLoader::insert(const std::string& path) {
  if (loaded_.count(path) > 0) {
    return true;
  }
  const std::string file_name = folder_ + "/" + path;
  const Descriptor file(open(file_name.c_str(), O_RDONLY | O_CLOEXEC));
  // EEXIST: loaded by an earlier stage or by the kernel through modprobe.
  if (file && (syscall(SYS_finit_module, file.get(), "", 0) == 0 || errno == EEXIST)) {
    loaded_.insert(path);
    return true;
  }
  // ENODEV is an ordinary answer: kvm_intel on an AMD processor, for instance.
  if (errno != ENODEV) {
    report_error("module " + path, std::strerror(errno));
  }
  return false;
}

void ModuleLoader::load_for_device(const std::string& modalias) {
  for (const std::string& name : table_.find_by_alias(modalias)) {
    load(name);
  }
}

}  // namespace vmtest::guest
