#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace vmtest {

// Processes that run beside a hypervisor and serve one of its devices: a virtiofsd for each shared folder, a swtpm for a TPM.
// They are started before the hypervisor by the VM's supervisor, and end with it.

/// The virtiofsd of this host. There are two programs of that name: QEMU's of up to version 7.2, and its successor.
struct Virtiofsd {
  enum class Kind {
    /// Of QEMU 7.2, written in C. Needs root. It has no option for folders that must not be written to: it is given a read-only
    /// view of them (Linux 5.12).
    Qemu,
    /// The successor, written in Rust.
    Standalone,
  };
  std::filesystem::path program;
  Kind kind = Kind::Qemu;
};

/// VMTEST_VIRTIOFSD, else `virtiofsd` in PATH, else where Debian's packages put one. Throws Unsupported with the mend when there
/// is none that this user can run.
[[nodiscard]] Virtiofsd find_virtiofsd();
/// VMTEST_SWTPM, else `swtpm` in PATH. Throws Unsupported with the mend when there is none.
[[nodiscard]] std::filesystem::path find_swtpm();

/// Starts a virtiofsd over an empty folder, or a swtpm, in the way VMs have it, and has it answer. Returns what was seen; throws
/// Error with its own words.
[[nodiscard]] std::string try_virtiofsd();
[[nodiscard]] std::string try_swtpm();

}  // namespace vmtest
