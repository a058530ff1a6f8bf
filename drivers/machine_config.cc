#include "vmtest/machine_config.h"

namespace vmtest {

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

}  // namespace vmtest
