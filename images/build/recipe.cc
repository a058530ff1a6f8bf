#include "build/recipe.h"

#include <fcntl.h>

#include <array>
#include <fstream>
#include <map>
#include <optional>
#include <string>

#include "vmtest/deadline.h"
#include "vmtest/error.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

constexpr std::array kRecipes{
    Recipe{"tiny", Architecture::X86_64, "Debian kernel, busybox, dropbear; up in seconds under emulation", 2, build_tiny},
    Recipe{"debian-12", Architecture::X86_64, "Debian 12 with systemd, OpenSSH and cloud-init on a bootable disk", 2,
           build_debian_12},
};

/// The Debian package that brings a program a recipe asks for.
std::string package_of(std::string_view program) {
  static const std::map<std::string_view, std::string_view> packages = {
      {"mmdebstrap", "mmdebstrap"},
      {"mkfs.ext4", "e2fsprogs"},
      {"debugfs", "e2fsprogs"},
      {"sfdisk", "fdisk"},
      {"mkfs.vfat", "dosfstools"},
      {"mcopy", "mtools"},
      {"mmd", "mtools"},
      {"qemu-img", "qemu-utils"},
      {"apt-get", "apt"},
      {"dpkg-deb", "dpkg"},
      {"cpio", "cpio"},
      {"zstd", "zstd"},
      {"tar", "tar"},
      {"depmod", "kmod"},
      {"mformat", "mtools"},
      {"gzip", "gzip"},
      {"fakeroot", "fakeroot"},
      {"newuidmap", "uidmap"},
  };
  const auto found = packages.find(program);
  return std::string(found == packages.end() ? program : found->second);
}

}  // namespace

void BuildContext::step(std::string_view what) const {
  std::ofstream(log, std::ios::app) << "== " << what << "\n";
  if (progress) {
    progress(what);
  }
}

std::string BuildContext::run(const std::vector<std::string>& argv, const std::filesystem::path& standard_input,
                              std::chrono::seconds limit) const {
  const std::filesystem::path out_path = scratch / "command.out";
  const std::filesystem::path err_path = scratch / "command.err";
  std::ofstream(log, std::ios::app) << "$ " << format_command(argv) << "\n";
  std::optional<ExitStatus> status;
  {
    const FileDescriptor in = open_file(standard_input.empty() ? "/dev/null" : standard_input, O_RDONLY);
    const FileDescriptor out = open_file(out_path, O_WRONLY | O_CREAT | O_TRUNC);
    const FileDescriptor err = open_file(err_path, O_WRONLY | O_CREAT | O_TRUNC);
    ChildProcess child = ChildProcess::start({
        .argv = argv,
        // A fixed locale: an image must not depend on who builds it.
        .environment = {{"LC_ALL", "C.UTF-8"}, {"DEBIAN_FRONTEND", "noninteractive"}},
        .working_directory = scratch,
        .standard_input = in.get(),
        .standard_output = out.get(),
        .standard_error = err.get(),
    });
    status = child.wait(Deadline::after(limit));
  }
  std::string output = read_file(out_path);
  const std::string errors = read_file(err_path);
  std::ofstream(log, std::ios::app) << output << errors << "-> " << (status ? to_string(*status) : "too slow") << "\n";
  if (!status) {
    throw Timeout(format_command(argv) + ": still running after " + std::to_string(limit.count()) + " s, killed");
  }
  if (!status->ok()) {
    constexpr std::size_t kShownErrorLines = 20;
    throw Error(format_command(argv) + ": " + to_string(*status) + " (whole output in " + log.string() + ")\n" +
                last_lines(errors.empty() ? output : errors, kShownErrorLines));
  }
  return output;
}

void BuildContext::require_programs(std::span<const std::string_view> programs) const {
  std::string missing;
  for (const std::string_view program : programs) {
    if (!find_program(std::string(program))) {
      missing += " " + package_of(program);
    }
  }
  if (!missing.empty()) {
    throw Unsupported("programs needed to build this image are not installed; get them with: apt-get install" + missing);
  }
}

std::span<const Recipe> recipes() { return kRecipes; }

const Recipe* find_recipe(std::string_view name, Architecture architecture) {
  for (const Recipe& recipe : kRecipes) {
    if (recipe.name == name && recipe.architecture == architecture) {
      return &recipe;
    }
  }
  return nullptr;
}

}  // namespace vmtest
