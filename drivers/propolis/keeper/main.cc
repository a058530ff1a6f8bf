// vmtest-propolis-keeper: one run of one VM on Propolis, see keeper.h.

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <exception>

#include "host_steps.h"
#include "keeper.h"
#include "vmtest/host/file_descriptor.h"

namespace {

constexpr const char* kUsage =
    "usage: vmtest-propolis-keeper run PLAN      runs the VM of a plan to its end\n"
    "       vmtest-propolis-keeper undo JOURNAL  takes back what a run that was killed did to the host\n";

int run(const char* plan) {
  try {
    vmtest::propolis::keep(vmtest::propolis::parse_run_plan(vmtest::read_file(plan)));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  int code = 2;
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::printf("vmtest-propolis-keeper %s\n", VMTEST_VERSION);
    code = 0;
  } else if (argc == 3 && std::strcmp(argv[1], "run") == 0) {
    code = run(argv[2]);
  } else if (argc == 3 && std::strcmp(argv[1], "undo") == 0) {
    code = vmtest::propolis::HostSteps::undo(argv[2]) ? 0 : 1;
  } else {
    std::fputs(kUsage, stderr);
  }
  std::fflush(stdout);
  // A thread may still wait for a server's answer.
  ::_exit(code);
}
