#pragma once

#include "../run_plan.h"

namespace vmtest::propolis {

/// Runs one VM to its end: the host's side, a server, the instance, its console. Returns when the guest has ended, or when
/// SIGTERM or SIGINT came and it was stopped. Throws Error with the server's words when the VM cannot be run or fails.
void keep(const RunPlan& plan);

}  // namespace vmtest::propolis
