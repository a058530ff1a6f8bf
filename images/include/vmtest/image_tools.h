#pragma once

#include <string>
#include <vector>

namespace vmtest {

/// Something that building images needs and that does not serve. A plain value.
struct ImageToolProblem {
  /// "mformat is not installed", or what a program said when it was tried.
  std::string detail;
  /// The command that mends it, most likely.
  std::string mend;
};

/// Tries the programs that images are built with, each on something small in a temporary folder, as `vmtest image build`
/// uses them. Takes about a second; nothing is fetched from a network. Empty when all of them serve. Throws
/// std::system_error when there is no temporary folder.
[[nodiscard]] std::vector<ImageToolProblem> try_image_tools();

}  // namespace vmtest
