#include "build/kernel_modules.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <set>

#include "vmtest/error.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

std::string read_whole(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw_errno("cannot read " + path.string());
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string module_name(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::vector<std::string> words_of(std::string_view text, std::string_view separators) {
  std::vector<std::string> words;
  while (true) {
    const std::size_t start = text.find_first_not_of(separators);
    if (start == std::string_view::npos) {
      return words;
    }
    text.remove_prefix(start);
    words.emplace_back(text.substr(0, text.find_first_of(separators)));
    text.remove_prefix(words.back().size());
  }
}

template <typename Header>
Header header_at(std::string_view elf, std::size_t offset) {
  Header header{};
  if (offset > elf.size() || elf.size() - offset < sizeof header) {
    throw Error("a kernel module is cut short");
  }
  std::memcpy(&header, elf.data() + offset, sizeof header);
  return header;
}

std::string_view section_of(std::string_view elf, std::string_view wanted) {
  const auto file = header_at<Elf64_Ehdr>(elf, 0);
  if (std::memcmp(file.e_ident, ELFMAG, SELFMAG) != 0 || file.e_ident[EI_CLASS] != ELFCLASS64 ||
      file.e_ident[EI_DATA] != ELFDATA2LSB) {
    throw Error("a kernel module is no 64-bit little-endian ELF file");
  }
  const auto section = [&](unsigned index) {
    return header_at<Elf64_Shdr>(elf, file.e_shoff + std::size_t{index} * sizeof(Elf64_Shdr));
  };
  const auto content = [&](const Elf64_Shdr& header) {
    if (header.sh_offset > elf.size() || header.sh_size > elf.size() - header.sh_offset) {
      throw Error("a kernel module is cut short");
    }
    return elf.substr(header.sh_offset, header.sh_size);
  };
  const std::string_view names = content(section(file.e_shstrndx));
  for (unsigned index = 0; index < file.e_shnum; ++index) {
    const Elf64_Shdr header = section(index);
    const std::string_view name = header.sh_name < names.size() ? names.substr(header.sh_name) : std::string_view();
    if (name.substr(0, name.find('\0')) == wanted) {
      return content(header);
    }
  }
  return {};
}

/// The modules of a folder by name, read when asked for.
class ModuleSet {
 public:
  explicit ModuleSet(fs::path folder) : folder_(std::move(folder)) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder_)) {
      if (entry.path().extension() == ".ko") {
        paths_[module_name(entry.path().stem())] = entry.path().lexically_relative(folder_).string();
      }
    }
  }

  [[nodiscard]] bool has(const std::string& name) const { return paths_.count(name) > 0; }
  [[nodiscard]] const std::string& path(const std::string& name) const { return paths_.at(name); }
  const ModuleInfo& info(const std::string& name) {
    const auto known = infos_.find(name);
    return known != infos_.end() ? known->second
                                 : infos_.emplace(name, parse_module_info(read_whole(folder_ / paths_.at(name)))).first->second;
  }

  /// The module and what it needs, in the order of loading.
  std::vector<std::string> load_order(const std::string& name) {
    std::vector<std::string> order;
    const std::function<void(const std::string&)> visit = [&](const std::string& module) {
      if (std::find(order.begin(), order.end(), module) != order.end()) {
        return;
      }
      for (const std::string& needed : info(module).depends) {
        if (!has(needed)) {
          throw Error("kernel module " + module + " needs " + needed + ", which is not there");
        }
        visit(needed);
      }
      order.push_back(module);
    };
    visit(name);
    return order;
  }

 private:
  fs::path folder_;
  std::map<std::string, std::string> paths_;
  std::map<std::string, ModuleInfo> infos_;
};

}  // namespace

ModuleInfo parse_module_info(std::string_view elf) {
  ModuleInfo info;
  for (const std::string& field : words_of(section_of(elf, ".modinfo"), std::string_view("\0", 1))) {
    const std::size_t equals = field.find('=');
    const std::string key = field.substr(0, equals);
    const std::string value = equals == std::string::npos ? std::string() : field.substr(equals + 1);
    if (key == "alias") {
      info.aliases.push_back(value);
    } else if (key == "depends") {
      for (const std::string& name : words_of(value, ",")) {
        info.depends.push_back(module_name(name));
      }
    } else if (key == "softdep") {
      for (const std::string& name : words_of(value, " ")) {
        if (name.back() != ':') {
          info.soft_depends.push_back(module_name(name));
        }
      }
    }
  }
  return info;
}

KernelModules select_modules(const fs::path& folder, std::span<const std::string_view> names) {
  ModuleSet all(folder);
  std::set<std::string> chosen;
  std::vector<std::string> to_visit;
  for (const std::string_view name : names) {
    to_visit.push_back(module_name(std::string(name)));
  }
  while (!to_visit.empty()) {
    const std::string name = std::move(to_visit.back());
    to_visit.pop_back();
    if (!all.has(name) || !chosen.insert(name).second) {
      continue;
    }
    for (const std::string& needed : all.load_order(name)) {
      to_visit.push_back(needed);
    }
    const ModuleInfo& info = all.info(name);
    to_visit.insert(to_visit.end(), info.soft_depends.begin(), info.soft_depends.end());
  }
  KernelModules out;
  for (const std::string& name : chosen) {
    out.paths.push_back(all.path(name));
    std::vector<std::string> order = all.load_order(name);
    std::reverse(order.begin(), order.end());
    out.dependencies += all.path(name) + ":";
    for (std::size_t index = 1; index < order.size(); ++index) {
      out.dependencies += " " + all.path(order[index]);
    }
    out.dependencies += "\n";
    for (const std::string& alias : all.info(name).aliases) {
      out.aliases += "alias " + alias + " " + name + "\n";
    }
  }
  std::sort(out.paths.begin(), out.paths.end());
  return out;
}

}  // namespace vmtest
