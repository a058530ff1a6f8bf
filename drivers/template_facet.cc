#include "vmtest/template_facet.h"

#include <algorithm>

namespace vmtest {

namespace fs = std::filesystem;

std::vector<fs::path> files_of_state(const fs::path& state_file) {
  const std::string name = state_file.filename();
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(state_file.parent_path(), error)) {
    const std::string other = entry.path().filename();
    if (other == name || other.rfind(name + ".", 0) == 0) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace vmtest
