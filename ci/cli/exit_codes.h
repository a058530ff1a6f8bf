#pragma once

namespace vmtest::cli {

// What `vmtest` exits with. Part of its interface: scripts rely on them, and the help texts name them.

inline constexpr int kSuccess = 0;
/// A test failed, a check of `doctor` did, an image did not verify.
inline constexpr int kFailed = 1;
/// The command line cannot be meant.
inline constexpr int kUsage = 2;
/// Something around the work failed: a program that cannot be started, an image that cannot be built.
inline constexpr int kInfrastructure = 3;
/// `exec`: the VM or the way to it failed, so that there is no exit code of the command to pass on.
inline constexpr int kExecInfrastructure = 125;
/// Ended by signal N: this plus N, as shells have it.
inline constexpr int kSignalBase = 128;

}  // namespace vmtest::cli
