#include "vmtest/machine_config.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "vmtest/error.h"

namespace vmtest {
namespace {

/// The device's own limit.
constexpr std::size_t kLongestTag = 36;

}  // namespace

std::string_view to_string(Accelerator accelerator) {
  switch (accelerator) {
    case Accelerator::Auto:
      return "auto";
    case Accelerator::Kvm:
      return "kvm";
    case Accelerator::Tcg:
      return "tcg";
  }
  return "?";
}

std::optional<Accelerator> parse_accelerator(std::string_view text) {
  for (const Accelerator accelerator : {Accelerator::Auto, Accelerator::Kvm, Accelerator::Tcg}) {
    if (to_string(accelerator) == text) return accelerator;
  }
  return std::nullopt;
}

void validate(const std::vector<SharedFolderConfig>& folders) {
  std::set<std::string> tags;
  for (const SharedFolderConfig& folder : folders) {
    const bool good = std::all_of(folder.tag.begin(), folder.tag.end(),
                                  [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; });
    if (folder.tag.empty() || folder.tag.size() > kLongestTag || !good) {
      throw Error("the tag of a shared folder must be 1 to " + std::to_string(kLongestTag) +
                  " letters, digits, '-', '_' and '.', not \"" + folder.tag + "\"");
    }
    if (!tags.insert(folder.tag).second) throw Error("two shared folders have the tag \"" + folder.tag + "\"; give each its own");
  }
}

}  // namespace vmtest
