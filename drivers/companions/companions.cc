#include "companions/companions.h"

#include <unistd.h>

#include "vmtest/error.h"

namespace vmtest {

namespace fs = std::filesystem;

fs::path shared_folder_socket(const fs::path& runtime_dir, std::size_t place) {
  return runtime_dir / ("fs" + std::to_string(place) + ".sock");
}

fs::path tpm_socket(const fs::path& runtime_dir) { return runtime_dir / "tpm.sock"; }

std::vector<std::string> virtiofsd_command(const Virtiofsd& virtiofsd, const SharedFolderConfig& folder, bool root) {
  const std::string socket = "--fd=" + std::to_string(kCompanionSocketDescriptor);
  if (virtiofsd.kind == Virtiofsd::Kind::Qemu) {
    // By its descriptor, since commas and backslashes in a path would be its option parser's own. Its sandbox by namespaces needs
    // a root folder that is a mount, which a chroot's is not, and a process beside it.
    return {virtiofsd.program.string(), "-f", socket, "-o",
            "source=/proc/self/fd/" + std::to_string(kCompanionFolderDescriptor) + "/,cache=none,sandbox=chroot"};
  }
  std::vector<std::string> argv = {virtiofsd.program.string(), socket, "--shared-dir=" + folder.path.string(), "--cache=never",
                                   std::string("--sandbox=") + (root ? "chroot" : "none")};
  if (folder.read_only) argv.emplace_back("--readonly");
  return argv;
}

std::vector<std::string> swtpm_command(const fs::path& program, const fs::path& state_dir) {
  return {program.string(),
          "socket",
          "--tpm2",
          "--tpmstate",
          "dir=" + state_dir.string() + ",mode=0600",
          "--ctrl",
          "type=unixio,fd=" + std::to_string(kCompanionSocketDescriptor),
          "--terminate"};
}

std::vector<Companion> companions_of(const MachineConfig& machine, const fs::path& work_dir, const fs::path& runtime_dir) {
  std::vector<Companion> companions;
  validate(machine.shared_folders);
  if (!machine.shared_folders.empty()) {
    const Virtiofsd virtiofsd = find_virtiofsd();
    const bool by_view = virtiofsd.kind == Virtiofsd::Kind::Qemu;
    for (std::size_t i = 0; i < machine.shared_folders.size(); ++i) {
      SharedFolderConfig folder = machine.shared_folders[i];
      folder.path = fs::absolute(folder.path);
      std::error_code ignored;
      if (!fs::is_directory(folder.path, ignored))
        throw Error("there is no folder " + folder.path.string() + " to share with the guest");
      companions.push_back({.name = "virtiofsd-" + folder.tag,
                            .title = "virtiofsd, which serves the shared folder " + folder.path.string() + ",",
                            .socket = shared_folder_socket(runtime_dir, i),
                            .argv = virtiofsd_command(virtiofsd, folder, ::geteuid() == 0),
                            .folder = by_view ? folder.path : fs::path(),
                            .read_only = folder.read_only});
    }
  }
  if (machine.tpm) {
    const fs::path state_dir = work_dir / "tpm";
    if (state_dir.string().find(',') != std::string::npos)
      throw Error("swtpm cannot keep a TPM's state in " + state_dir.string() + ": commas are its parser's own; set VMTEST_HOME");
    companions.push_back({.name = "swtpm",
                          .title = "swtpm, which is the TPM,",
                          .socket = tpm_socket(runtime_dir),
                          .argv = swtpm_command(find_swtpm(), state_dir),
                          .state_dir = state_dir});
  }
  return companions;
}

std::optional<std::string> companion_obstacle(const MachineConfig& machine) {
  if (!machine.shared_folders.empty()) return "a shared folder's server, virtiofsd, cannot be frozen with the guest";
  if (machine.tpm) return "a TPM is a machine's own, and its state is not frozen with the guest";
  return std::nullopt;
}

}  // namespace vmtest
