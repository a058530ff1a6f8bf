#include "kvm_probe.h"

namespace vmtest {

std::string_view kvm_probe_image() { return {}; }

std::string_view kvm_probe_stage(char /*letter*/) { return "its start"; }

}  // namespace vmtest
