#include "vmtest/host/program_files.h"

#include <unistd.h>

#include <cstdlib>

#include "process_platform.h"
#include "vmtest/error.h"

namespace vmtest {

std::filesystem::path find_own_program(const std::string& name, const char* variable,
                                       const std::vector<std::filesystem::path>& places) {
  if (const char* named = std::getenv(variable); named != nullptr && *named != '\0') {
    if (::access(named, X_OK) == 0) return named;
    throw Error(std::string(variable) + " names " + named + ", which cannot be executed");
  }
  const auto self = own_program().parent_path();
  std::vector<std::filesystem::path> all = {self / name, self.parent_path() / "libexec" / "vmtest" / name};
  for (const auto& place : places) all.push_back(place / name);
  std::string tried;
  for (const auto& place : all) {
    if (::access(place.c_str(), X_OK) == 0) return place;
    tried += "\n  " + place.string();
  }
  throw Error("cannot find the program " + name + "; set " + variable + " to it. Looked at:" + tried);
}

}  // namespace vmtest
