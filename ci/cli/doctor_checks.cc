#include "doctor_checks.h"

#include <fcntl.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tap_check.h"
#include "vmtest/accelerator.h"
#include "vmtest/clone.h"
#include "vmtest/companions.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
#include "vmtest/host/text.h"
#include "vmtest/image_store.h"
#include "vmtest/image_tools.h"
#include "vmtest/seed.h"
#include "vmtest/supervisor.h"

namespace vmtest::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// For tools that take milliseconds, on a busy host.
constexpr std::chrono::seconds kToolTime{20};
/// What one VM of the default size and a copy of the largest image need, with room to spare.
constexpr unsigned kWantedMemoryMib = 1024;
constexpr std::uintmax_t kWantedDiskMib = 4096;
/// A VM's folder of sockets has a name of ten digits, and one of a VM that migrates another below it.
constexpr std::size_t kLongestVmFolder = 32;

Finding good(std::string detail) { return {Finding::Kind::Good, std::move(detail), {}}; }
Finding limited(std::string detail, std::string mend) { return {Finding::Kind::Limited, std::move(detail), std::move(mend)}; }
Finding bad(std::string detail, std::string mend) { return {Finding::Kind::Bad, std::move(detail), std::move(mend)}; }

std::string qemu_program() { return host_architecture() == Architecture::X86_64 ? "qemu-system-x86_64" : "qemu-system-aarch64"; }

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// Sends a QMP command and reads lines until its reply.
json ask(int socket, std::string& buffer, const char* command) {
  send_message(socket, json({{"execute", command}}).dump() + "\n");
  const Deadline deadline = Deadline::after(kToolTime);
  std::vector<FileDescriptor> none;
  for (;;) {
    const std::size_t end = buffer.find('\n');
    if (end == std::string::npos) {
      if (!wait_readable(socket, deadline)) throw Timeout(std::string("QEMU does not answer ") + command);
      if (!receive_some(socket, buffer, none)) throw Error(std::string("QEMU ended before it answered ") + command);
      continue;
    }
    const json line = json::parse(buffer.substr(0, end));
    buffer.erase(0, end + 1);
    if (line.contains("error")) throw Error(std::string("QEMU refuses ") + command + ": " + line["error"].dump());
    if (line.contains("return")) return line["return"];
  }
}

Finding check_qemu() {
  const std::string version = first_line(run_tool({qemu_program(), "--version"}, Deadline::after(kToolTime)).out);
  const TemporaryDirectory folder;
  const FileDescriptor errors = open_file(folder.path() / "errors", O_WRONLY | O_CREAT);
  auto [ours, theirs] = make_socket_pair();
  ProcessOptions options;
  const char* machine = host_architecture() == Architecture::X86_64 ? "q35,accel=tcg" : "virt,accel=tcg";
  options.argv = {qemu_program(),
                  "-nodefaults",
                  "-no-user-config",
                  "-display",
                  "none",
                  "-machine",
                  machine,
                  "-m",
                  "64",
                  "-S",
                  "-chardev",
                  "socket,id=q,fd=3",
                  "-mon",
                  "chardev=q,mode=control"};
  options.standard_error = errors.get();
  options.pass_descriptors = {{theirs.get(), 3}};
  ChildProcess qemu = ChildProcess::start(options);
  theirs.reset();
  try {
    std::string buffer;
    ask(ours.get(), buffer, "qmp_capabilities");
    const std::string status = ask(ours.get(), buffer, "query-status").at("status");
    ask(ours.get(), buffer, "quit");
    return good(version + "; a machine was made and is " + status);
  } catch (const std::exception& error) {
    throw Error(std::string(error.what()) + "\n" + last_lines(read_file_tail(folder.path() / "errors", 4096), 5));
  }
}

Finding check_accelerator() {
  (void)choose_accelerator(Accelerator::Auto, host_architecture());  // throws when VMTEST_ACCEL demands what is not there
  const AcceleratorChoice choice = prove_kvm(host_architecture());
  if (choice.accelerator == Accelerator::Kvm) return good(choice.reason);
  return limited(choice.reason + "; guests are emulated",
                 "tests are much slower under emulation; give this user a working /dev/kvm (in a VM: nested virtualisation)");
}

Finding check_overlay() {
  const TemporaryDirectory folder;
  const fs::path base = folder.path() / "base.qcow2";
  run_tool({"qemu-img", "create", "-q", "-f", "qcow2", base.string(), "1M"}, Deadline::after(kToolTime));
  (void)clone_disk({.source = base, .target = folder.path() / "clone.qcow2"}, Deadline::after(kToolTime));
  return good(std::string("an overlay was made") + (reflink_works(folder.path()) ? "; the temporary folder has reflinks" : ""));
}

Finding check_seed() {
  const TemporaryDirectory folder;
  SeedConfig seed;
  seed.instance_id = "doctor";
  seed.users = {{.name = "root"}};
  write_seed_iso(seed, folder.path() / "seed.iso");
  return good("a seed of " + std::to_string(fs::file_size(folder.path() / "seed.iso") / 1024) + " KiB was written");
}

Finding check_supervisor() {
  const fs::path program = find_supervisor();
  const TemporaryDirectory folder;
  const auto connection = SupervisorConnection::start(
      {.name = "doctor", .work_dir = folder.path() / "vm", .runtime_dir = runtime_dir() / ("doctor-" + random_hex(8))});
  connection->end();
  if (fs::exists(folder.path() / "vm")) return bad(program.string() + " left its folder behind", "report this");
  return good(program.string() + " was started, and left nothing");
}

/// Whether a file can be written in a folder, which is made if need be: its mode alone says little. Empty, or why not.
std::string try_folder(const fs::path& folder) {
  try {
    fs::create_directories(folder);
    const TemporaryDirectory place("doctor-", folder);
    write_file(place.path() / "file", "written");
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

Finding check_folders() {
  struct Folder {
    const char* what;
    fs::path path;
    const char* variable;
  };
  for (const auto& [what, path, variable] : {Folder{"images and VMs", data_dir(), "XDG_DATA_HOME or VMTEST_HOME"},
                                             Folder{"templates", cache_dir(), "XDG_CACHE_HOME or VMTEST_HOME"},
                                             Folder{"evidence", state_dir(), "XDG_STATE_HOME or VMTEST_HOME"}}) {
    const std::string why = try_folder(path);
    if (!why.empty())
      return bad("cannot write " + std::string(what) + " to " + path.string() + ": " + why,
                 "set " + std::string(variable) + " to a folder that you can write to");
  }
  (void)ledger_dir();
  const fs::path sockets = runtime_dir();
  if (const std::string why = try_folder(sockets); !why.empty())
    return bad("cannot make sockets in " + sockets.string() + ": " + why,
               "set XDG_RUNTIME_DIR to a folder that you can write to");
  const std::size_t longest = (sockets / std::string(kLongestVmFolder, 'x') / "supervisor.sock").string().size();
  if (longest > max_socket_path())
    return bad(sockets.string() + " is too long: sockets in it would have paths of " + std::to_string(longest) + " bytes, and " +
                   std::to_string(max_socket_path()) + " are possible",
               "set XDG_RUNTIME_DIR to a short path");
  return good("sockets in " + sockets.string() + ", images and VMs in " + data_dir().string());
}

Finding check_memory() {
  const Ledger::Limits limits = Ledger::default_limits();
  unsigned taken = 0;
  for (const VmResources& vm : Ledger().admitted()) taken += vm.memory_mib;
  const std::string detail = "VMs may take " + std::to_string(limits.memory_mib) + " MiB and " + std::to_string(limits.vcpus) +
                             " vCPUs; running ones have " + std::to_string(taken) + " MiB";
  if (limits.memory_mib >= kWantedMemoryMib) return good(detail);
  return limited(detail, "close other programs, or raise VMTEST_MAX_MEMORY_MIB; larger guests will be skipped");
}

Finding check_disk() {
  const std::uintmax_t free = fs::space(data_dir()).available / (1024 * 1024);
  const std::string detail = std::to_string(free) + " MiB free in " + data_dir().string();
  if (free >= kWantedDiskMib) return good(detail);
  return limited(detail, "make room, or set VMTEST_HOME to a folder on a larger disk");
}

Finding check_images() {
  const ImageStore store;
  std::string there;
  std::string missing;
  for (const ImageRecipe& recipe : ImageStore::recipes()) {
    if (recipe.architecture != host_architecture()) continue;
    const auto details = store.find(recipe.name, recipe.architecture);
    if (details && !ImageStore::outdated(*details)) there += " " + recipe.name;
    else missing += " " + recipe.name + (details ? " (outdated)" : "");
  }
  if (missing.empty()) return good("built:" + there);
  return limited((there.empty() ? "none built" : "built:" + there) + "; not built:" + missing, "vmtest image build NAME");
}

Finding check_tools() {
  std::string details;
  std::string mends;
  for (const ImageToolProblem& problem : try_image_tools()) {
    details += (details.empty() ? "images cannot be built: " : "; ") + problem.detail;
    mends += (mends.empty() ? "" : "; ") + problem.mend;
  }
  if (details.empty()) return good("all programs that build images work");
  return limited(details, mends);
}

Finding check_tap() {
  try_tap();
  return good("a TAP device was made and removed");
}

Finding check_shared_folders() { return good(try_virtiofsd()); }
Finding check_tpm() { return good(try_swtpm()); }

/// Why a file cannot be the flash of a UEFI guest; empty when it can. It begins with a firmware volume, whose header has the
/// volume's length at byte 32 and a signature at 40 (UEFI Platform Initialization Specification, EFI_FIRMWARE_VOLUME_HEADER).
std::string why_no_firmware(const fs::path& file) {
  constexpr std::size_t kLengthAt = 32;
  constexpr std::size_t kSignatureAt = 40;
  constexpr std::string_view kSignature = "_FVH";
  std::array<char, kSignatureAt + kSignature.size()> header{};
  // Read, not looked at: a link of a removed package is there too.
  std::ifstream stream(file, std::ios::binary);
  if (!stream.read(header.data(), header.size())) return "cannot be read";
  if (std::string_view(header.data(), header.size()).substr(kSignatureAt) != kSignature) return "is no UEFI firmware";
  std::uintmax_t length = 0;
  for (std::size_t i = 0; i < sizeof(std::uint64_t); ++i)
    length |= std::uintmax_t{static_cast<unsigned char>(header.at(kLengthAt + i))} << (8 * i);
  return length > fs::file_size(file) ? "is cut short" : "";
}

Finding check_firmware() {
  const bool x86 = host_architecture() == Architecture::X86_64;
  const fs::path folder = x86 ? "/usr/share/OVMF" : "/usr/share/AAVMF";
  for (const char* name : {x86 ? "OVMF_CODE_4M.fd" : "AAVMF_CODE.fd", x86 ? "OVMF_VARS_4M.fd" : "AAVMF_VARS.fd"}) {
    const std::string why = why_no_firmware(folder / name);
    if (why.empty()) continue;
    return limited((folder / name).string() + " " + why + ": tests that boot by UEFI are skipped, or fail",
                   std::string("apt-get install --reinstall ") + (x86 ? "ovmf" : "qemu-efi-aarch64"));
  }
  return good("code and variables in " + folder.string());
}

Finding check_ssh_client() {
  const ToolResult result = run_tool({"ssh", "-V"}, Deadline::after(kToolTime));
  return good(first_line(result.err));
}

constexpr std::array kChecks{
    Check{"QEMU", check_qemu, false, "apt-get install qemu-system-x86"},
    Check{"accelerator", check_accelerator, false, "unset VMTEST_ACCEL, or give this user a working /dev/kvm"},
    Check{"disk clones", check_overlay, false, "apt-get install qemu-utils; see that the temporary folder can be written"},
    Check{"seed", check_seed, false, "see that the temporary folder can be written"},
    Check{"folders", check_folders, false, "set VMTEST_HOME and XDG_RUNTIME_DIR to folders of yours"},
    Check{"supervisor", check_supervisor, false,
          "install vmtest whole, or set VMTEST_SUPERVISOR to the vmtest-supervisor of its build"},
    Check{"memory", check_memory, true, "free some memory"},
    Check{"disk space", check_disk, true, "make room, or set VMTEST_HOME to a folder on a larger disk"},
    Check{"images", check_images, true, "vmtest image build tiny"},
    Check{"image tools", check_tools, true, "see that the temporary folder can be written"},
    Check{"TAP networks", check_tap, true,
          "run as root or with CAP_NET_ADMIN, and see that /dev/net/tun is there; such tests are skipped"},
    Check{"UEFI firmware", check_firmware, true, "apt-get install ovmf"},
    Check{"shared folders", check_shared_folders, true,
          "apt-get install qemu-system-common (Debian 12) and run as root, or set VMTEST_VIRTIOFSD; such tests are skipped"},
    Check{"TPM", check_tpm, true, "apt-get install swtpm, or set VMTEST_SWTPM; such tests are skipped"},
    Check{"SSH client", check_ssh_client, true, "apt-get install openssh-client; only `vmtest ssh` needs it"},
};

}  // namespace

std::span<const Check> doctor_checks() { return kChecks; }

Finding run_check(const Check& check) noexcept {
  try {
    try {
      return check.run();
    } catch (const std::exception& error) {
      return {check.optional ? Finding::Kind::Limited : Finding::Kind::Bad, error.what(), check.mend};
    }
  } catch (...) {  // no memory for the words
    return {Finding::Kind::Bad, {}, {}};
  }
}

}  // namespace vmtest::cli
