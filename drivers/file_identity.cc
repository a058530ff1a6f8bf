#include "file_identity.h"

#include <sys/stat.h>

#include <algorithm>
#include <vector>

#include "vmtest/host/file_descriptor.h"

namespace vmtest {

namespace fs = std::filesystem;

std::string identity_of_file(const fs::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return file.string() + " absent\n";
  return file.string() + " " + std::to_string(info.st_dev) + " " + std::to_string(info.st_ino) + " " +
         std::to_string(info.st_size) + " " + std::to_string(info.st_mtim.tv_sec) + "." + std::to_string(info.st_mtim.tv_nsec) +
         "\n";
}

std::string identity_of_folder(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::string text;
  for (const fs::path& file : files) text += identity_of_file(file);
  return text;
}

std::string identity_of_processor() {
  const std::string text = read_file("/proc/cpuinfo");
  std::string found;
  // The first processor's, as x86 and arm name them.
  for (const char* field :
       {"model name", "flags", "microcode", "Features", "CPU implementer", "CPU variant", "CPU part", "CPU revision"}) {
    const std::size_t at = text.find(std::string("\n") + field);
    if (at != std::string::npos) found += text.substr(at + 1, text.find('\n', at + 1) - at);
  }
  return found;
}

}  // namespace vmtest
