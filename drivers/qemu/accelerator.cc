#include "accelerator.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>

#include "kvm_probe.h"
#include "qemu_command_line.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The probe takes 0.2 s where KVM works and 0.3 s even under emulation; a broken KVM often hangs.
constexpr std::chrono::seconds kProbeTime{4};
constexpr const char* kKvmDevice = "/dev/kvm";

AcceleratorChoice emulation(const std::string& why) { return {Accelerator::Tcg, "TCG (emulation): " + why}; }

/// What stands in KVM's way before a guest is even tried; empty when nothing does. Cheap, so asked every time.
std::optional<std::string> obvious_obstacle(Architecture guest) {
  if (guest != host_architecture()) {
    return "a guest of " + std::string(to_string(guest)) + " cannot run on the CPU of this " +
           std::string(to_string(host_architecture())) + " host";
  }
  const FileDescriptor device(::open(kKvmDevice, O_RDWR | O_CLOEXEC));
  if (!device) {
    std::string why = std::string(kKvmDevice) + " cannot be opened: " + std::strerror(errno);
    if (errno == EACCES) why += " (join the group that owns it: usermod -aG kvm USER)";
    if (errno == ENOENT) why += " (no hardware virtualisation, or its kernel module is not loaded)";
    return why;
  }
  return std::nullopt;
}

std::string identity(const fs::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return file.string() + " missing";
  return file.string() + " " + std::to_string(info.st_ino) + " " + std::to_string(info.st_size) + " " +
         std::to_string(info.st_mtim.tv_sec) + "." + std::to_string(info.st_mtim.tv_nsec);
}

/// Everything that can change the outcome of the probe while nobody changes the probe.
std::string proof_key(const fs::path& program) {
  std::string key = std::string(sha256(kvm_probe_image())).substr(0, 16) + "|" + identity(program);
  try {
    key += "|" + read_file("/proc/sys/kernel/random/boot_id");
  } catch (const std::system_error&) {  // no boot to tell apart: the rest must do
  }
  for (const char* module : {"kvm", "kvm_intel", "kvm_amd", "kvm_pvm"}) {
    std::error_code ignored;
    if (fs::exists(fs::path("/sys/module") / module, ignored)) key += std::string("|") + module;
  }
  return key;
}

struct ProbeOutcome {
  AcceleratorChoice choice;
  /// Whether it will be the same the next time. One that took too long may just have met a busy host.
  bool lasts = true;
};

ProbeOutcome run_probe(const fs::path& program) {
  if (kvm_probe_image().empty()) {
    return {{Accelerator::Kvm, "KVM: " + std::string(kKvmDevice) + " opens (not proven by a guest on this architecture)"}};
  }
  const TemporaryDirectory folder("vmtest-kvm-");
  const fs::path image = folder.path() / "probe";
  write_file(image, kvm_probe_image(), 0600);
  const std::vector<std::string> command = probe_command(program, image, Accelerator::Kvm);
  try {
    const ToolResult result = exec_tool(command, Deadline::after(kProbeTime));
    if (const auto failure = judge_probe(result.status, result.out, result.err)) return {emulation(*failure)};
  } catch (const Timeout&) {
    return {.choice = emulation(*judge_probe(std::nullopt, "", "")), .lasts = false};
  }
  return {{Accelerator::Kvm, "KVM: a 64-bit guest ran on it"}};
}

AcceleratorChoice prove(Architecture guest, bool may_remember) {
  if (const auto obstacle = obvious_obstacle(guest)) return emulation(*obstacle);
  const auto program = find_program(qemu_program(guest));
  if (!program) return emulation(qemu_program(guest) + " is not installed, so KVM could not be tried");
  const fs::path file = cache_dir() / "kvm-proof.json";
  const std::string key = proof_key(*program);
  if (may_remember) {
    const auto remembered = parse_remembered_proof(read_file_tail(file, 65536));
    if (remembered && remembered->key == key) return remembered->choice;
  }
  ProbeOutcome outcome = run_probe(*program);
  if (!outcome.lasts) return outcome.choice;
  try {
    ensure_private_dir(cache_dir());
    write_file(file, to_json(RememberedProof{key, outcome.choice}), 0600);
  } catch (const std::exception&) {  // not remembered: the next process proves it again
  }
  return outcome.choice;
}

}  // namespace

std::vector<std::string> probe_command(const fs::path& program, const fs::path& image, Accelerator accelerator) {
  return {program.string(),
          "-nodefaults",
          "-no-user-config",
          "-display",
          "none",
          "-no-reboot",
          "-machine",
          "q35,accel=" + std::string(to_string(accelerator)),
          "-cpu",
          accelerator == Accelerator::Kvm ? "host" : "max",
          "-m",
          "16",
          "-kernel",
          image.string(),
          "-debugcon",
          "stdio",
          "-device",
          "isa-debug-exit,iobase=0xf4,iosize=0x01"};
}

std::optional<std::string> judge_probe(const std::optional<ExitStatus>& status, std::string_view output,
                                       std::string_view errors) {
  const auto last = output.find_last_of("ABCDEFGH");
  const char reached = last == std::string_view::npos ? '\0' : output[last];
  if (status && status->code == kKvmProbePassed && reached == kKvmProbeLastStage) return std::nullopt;
  std::string why = "KVM does not run a 64-bit guest: ";
  if (!status) {
    why += "it hung for " + std::to_string(kProbeTime.count()) + " s";
  } else {
    const std::string_view stage = reached == '\0' ? "its very start" : kvm_probe_stage(static_cast<char>(reached + 1));
    why += "it failed at " + std::string(stage) + " (" + to_string(*status) + ")";
  }
  std::string_view said = errors.substr(0, errors.find('\n'));
  if (!said.empty()) why += ", QEMU said: " + sanitize_console(said);
  return why;
}

std::string to_json(const RememberedProof& proof) {
  const json object = {{"key", proof.key}, {"accelerator", to_string(proof.choice.accelerator)}, {"reason", proof.choice.reason}};
  return object.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::optional<RememberedProof> parse_remembered_proof(std::string_view text) {
  const json object = json::parse(text, nullptr, false);
  try {
    const auto accelerator = parse_accelerator(object.at("accelerator").get<std::string>());
    if (!accelerator || *accelerator == Accelerator::Auto) return std::nullopt;
    return RememberedProof{object.at("key"), {*accelerator, object.at("reason")}};
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

Accelerator effective_wish(Accelerator wish, const char* environment) {
  if (wish != Accelerator::Auto || environment == nullptr || *environment == '\0') return wish;
  const auto named = parse_accelerator(environment);
  if (!named) throw Error("VMTEST_ACCEL=" + std::string(environment) + " is none of auto, kvm, tcg");
  return *named;
}

AcceleratorChoice prove_kvm(Architecture guest) { return prove(guest, false); }

AcceleratorChoice choose_accelerator(Accelerator wish, Architecture guest) {
  const char* environment = std::getenv("VMTEST_ACCEL");
  const Accelerator settled = effective_wish(wish, environment);
  const bool by_environment = settled != wish;
  if (settled == Accelerator::Tcg) return emulation(by_environment ? "VMTEST_ACCEL asks for it" : "the spec asks for it");
  static std::mutex mutex;  // threads of one process share one probe
  const std::lock_guard lock(mutex);
  AcceleratorChoice choice = prove(guest, true);
  if (settled == Accelerator::Kvm && choice.accelerator != Accelerator::Kvm) {
    // Who sets the variable wants to hear of it: skipped tests would make a run without one VM look well.
    if (by_environment) {
      throw Error("VMTEST_ACCEL=kvm demands KVM, which does not serve here: " + choice.reason +
                  "; give this user a working /dev/kvm (see vmtest doctor), or unset VMTEST_ACCEL");
    }
    throw Unsupported("KVM is demanded by the spec and does not serve here: " + choice.reason);
  }
  return choice;
}

}  // namespace vmtest
