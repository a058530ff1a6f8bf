#include "build/recipe.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
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
    Recipe{"tiny", Architecture::X86_64, "Debian kernel, busybox, dropbear; up in seconds under emulation", 4, build_tiny},
    Recipe{"debian-12", Architecture::X86_64, "Debian 12 with systemd, OpenSSH and cloud-init on a bootable disk", 3,
           build_debian_12},
};

/// The caller's, with the folders of administrators' programs behind it: programs look for each other there.
std::string full_path() {
  const char* path = std::getenv("PATH");
  return std::string(path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path) + ":/usr/sbin:/sbin";
}

}  // namespace

void BuildContext::check_interrupt() const {
  pollfd entry{interrupt, POLLIN, 0};  // a descriptor of -1 is none
  if (::poll(&entry, 1, 0) > 0) {
    throw Error("the build was called off");
  }
}

void BuildContext::step(std::string_view what) const {
  check_interrupt();
  std::ofstream(log, std::ios::app) << "== " << what << "\n";
  if (progress) {
    progress(what);
  }
}

std::string BuildContext::run(const std::vector<std::string>& argv, const std::filesystem::path& standard_input) const {
  const std::filesystem::path out_path = scratch / "command.out";
  const std::filesystem::path err_path = scratch / "command.err";
  std::ofstream(log, std::ios::app) << "$ " << format_command(argv) << "\n";
  std::optional<ExitStatus> status;
  {
    const FileDescriptor in = open_file(standard_input.empty() ? "/dev/null" : standard_input, O_RDONLY);
    const FileDescriptor out = open_file(out_path, O_WRONLY | O_CREAT | O_TRUNC);
    const FileDescriptor err = open_file(err_path, O_WRONLY | O_CREAT | O_TRUNC);
    // A fixed locale: an image must not depend on who builds it.
    std::map<std::string, std::string> environment = {
        {"LC_ALL", "C.UTF-8"}, {"DEBIAN_FRONTEND", "noninteractive"}, {"PATH", full_path()}};
    // What a killed program leaves goes with the scratch folder. A user namespace's root could not enter that.
    if (::geteuid() == 0) environment["TMPDIR"] = scratch.string();
    ChildProcess child = ChildProcess::start({
        .argv = argv,
        .environment = environment,
        .working_directory = scratch,
        .standard_input = in.get(),
        .standard_output = out.get(),
        .standard_error = err.get(),
        // fakeroot waits for the end of its daemon.
        .adopts_orphans = true,
    });
    const Deadline deadline = Deadline::after(time_limit);
    while (!(status = child.poll()) && !deadline.expired()) {
      pollfd entries[] = {{child.pidfd(), POLLIN, 0}, {interrupt, POLLIN, 0}};
      ::poll(entries, 2, deadline.poll_timeout());
      if (entries[1].revents != 0) {
        throw Error(format_command(argv) + ": killed, since the build was called off");
      }
    }
  }
  std::string output = read_file(out_path);
  const std::string errors = read_file(err_path);
  std::ofstream(log, std::ios::app) << output << errors << "-> " << (status ? to_string(*status) : "too slow") << "\n";
  if (!status) {
    throw Timeout(format_command(argv) + ": still running after " + std::to_string(time_limit.count()) + " s, killed");
  }
  if (!status->ok()) {
    constexpr std::size_t kShownErrorLines = 20;
    throw Error(format_command(argv) + ": " + to_string(*status) +
                (log.empty() ? "" : " (whole output in " + log.string() + ")") + "\n" +
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
