#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmtest/accelerator.h"
#include "vmtest/host/process.h"

namespace vmtest {

/// How QEMU is called to run the guest of kvm_probe.h from `image` under `accelerator`.
[[nodiscard]] std::vector<std::string> probe_command(const std::filesystem::path& program, const std::filesystem::path& image,
                                                     Accelerator accelerator);
/// What a run of the probe says: empty when it passed, else what went wrong in one line. `output` is what the guest wrote,
/// `errors` QEMU's standard error; no status means that it did not end in time.
[[nodiscard]] std::optional<std::string> judge_probe(const std::optional<ExitStatus>& status, std::string_view output,
                                                     std::string_view errors);

/// A remembered proof.
struct RememberedProof {
  /// What the proof depends on: this boot of the host, QEMU's binary, KVM's modules.
  std::string key;
  AcceleratorChoice choice;
};
[[nodiscard]] std::string to_json(const RememberedProof& proof);
/// Empty when `text` is none: a damaged file is as good as none.
[[nodiscard]] std::optional<RememberedProof> parse_remembered_proof(std::string_view text);

/// The wish after VMTEST_ACCEL was heard. Throws Error when it says something unknown.
[[nodiscard]] Accelerator effective_wish(Accelerator wish, const char* environment);

}  // namespace vmtest
