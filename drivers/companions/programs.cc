// The programs that companions are, as this host has them.

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <functional>

#include "companions/companions.h"
#include "vmtest/error.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

/// For a program that prints its version.
constexpr std::chrono::seconds kVersionTime{20};
/// Where packages put virtiofsd, which is in nobody's PATH: QEMU's of Debian 12, the successor's of Debian 13 and Fedora.
constexpr std::array kPlaces = {"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"};

/// The program that the variable names.
std::optional<fs::path> named_by(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return std::nullopt;
  if (::access(text, X_OK) != 0) throw Unsupported(std::string(variable) + "=" + text + " is no program");
  return fs::absolute(text);
}

fs::path virtiofsd_program() {
  if (const auto named = named_by("VMTEST_VIRTIOFSD")) return *named;
  if (const auto found = find_program("virtiofsd")) return *found;
  for (const char* place : kPlaces) {
    if (::access(place, X_OK) == 0) return place;
  }
  throw Unsupported(
      "virtiofsd is not installed, which shared folders need: it is in no usual place and VMTEST_VIRTIOFSD names none; get it "
      "with: "
      "apt-get install qemu-system-common (Debian 12), apt-get install virtiofsd (later)");
}

Support support_of(const std::function<void()>& find) {
  try {
    find();
    return {Support::Kind::Supported, ""};
  } catch (const Error& error) {
    return {Support::Kind::NeedsHost, error.what()};
  }
}

}  // namespace

Virtiofsd find_virtiofsd() {
  Virtiofsd found;
  found.program = virtiofsd_program();
  const ToolResult version = exec_tool({found.program.string(), "--version"}, Deadline::after(kVersionTime));
  if (!version.status.ok() || version.out.find("virtiofsd") == std::string::npos) {
    throw Unsupported(found.program.string() + " is no virtiofsd: asked for its version it ended with " +
                      to_string(version.status) +
                      (version.err.empty() ? "" : ", saying: " + sanitize_console(last_lines(version.err, 1))));
  }
  // Only QEMU's names the protocol it was built with.
  found.kind =
      version.out.find("using FUSE kernel interface") != std::string::npos ? Virtiofsd::Kind::Qemu : Virtiofsd::Kind::Standalone;
  if (found.kind == Virtiofsd::Kind::Qemu && ::geteuid() != 0) {
    throw Unsupported("QEMU's own virtiofsd, " + found.program.string() +
                      ", runs for root only; run as root, or have VMTEST_VIRTIOFSD name its successor");
  }
  return found;
}

fs::path find_swtpm() {
  if (const auto named = named_by("VMTEST_SWTPM")) return *named;
  if (const auto found = find_program("swtpm")) return *found;
  throw Unsupported("swtpm is not in PATH, which a TPM needs, and VMTEST_SWTPM names none; get it with: apt-get install swtpm");
}

Support shared_folder_support() {
  return support_of([] { (void)find_virtiofsd(); });
}

Support tpm_support() {
  return support_of([] { (void)find_swtpm(); });
}

}  // namespace vmtest
