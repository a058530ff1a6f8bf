// PID 1 of the `tiny` image: from the initramfs to the root file system, then guest/init.h. With the argument "agent" the guest
// agent of any other Linux.

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>

#include "guest/agent.h"
#include "guest/console.h"
#include "guest/devices.h"
#include "guest/files.h"
#include "guest/init.h"
#include "guest/modules.h"
#include "guest/mounts.h"
#include "guest/services.h"
#include "guest/timeline.h"

namespace vmtest::guest {
namespace {

constexpr std::string_view kLabelPrefix = "LABEL=";
constexpr const char* kDefaultRoot = "LABEL=vmtest-root";
constexpr const char* kEarlyModules = "/lib/modules/early";
constexpr const char* kNewRoot = "/new_root";
constexpr std::chrono::seconds kRootWait{5};
/// The port's driver may be a module that is still being loaded.
constexpr std::chrono::seconds kPortWait{30};
constexpr useconds_t kRootPollMicroseconds = 20000;

std::optional<std::string> find_root(const std::string& name) {
  if (name.compare(0, kLabelPrefix.size(), kLabelPrefix) == 0) {
    return find_ext4(std::string_view(name).substr(kLabelPrefix.size()));
  }
  return access(name.c_str(), F_OK) == 0 ? std::optional(name) : std::nullopt;
}

/// Loads what the root file system needs, mounts it and makes it the root.
void enter_root(const std::map<std::string, std::string>& command_line, Timeline& timeline) {
  ModuleLoader modules(kEarlyModules);
  // The file system asks for its checksum by name; there is no modprobe here that could answer.
  modules.load("crc32c_generic");
  modules.load("virtio_pci");
  modules.load("virtio_blk");
  timeline.mark("disk drivers");
  modules.load("ext4");
  timeline.mark("ext4 driver");
  const auto wanted = command_line.find("root");
  const std::string name = wanted == command_line.end() ? kDefaultRoot : wanted->second;
  std::optional<std::string> device = find_root(name);
  const auto end = std::chrono::steady_clock::now() + kRootWait;
  while (!device && std::chrono::steady_clock::now() < end) {
    coldplug(modules);
    usleep(kRootPollMicroseconds);
    device = find_root(name);
  }
  if (!device) {
    throw std::runtime_error("no disk is root=" + name);
  }
  mount_at(*device, kNewRoot, "ext4");
  switch_root(kNewRoot);
  timeline.mark("root file system");
}

/// Answers the host for ever.
int be_the_agent() {
  Agent agent([](const HostKey& key) { set_openssh_host_key(key.private_key, key.public_key); });
  try {
    const auto end = std::chrono::steady_clock::now() + kPortWait;
    while (!agent.open()) {
      if (std::chrono::steady_clock::now() > end) {
        throw std::runtime_error(std::string("the machine has neither a port ") + kAgentPort + " nor a vsock device");
      }
      usleep(kRootPollMicroseconds);
    }
  } catch (const std::exception& error) {
    report_error("agent", error.what());
    return 1;
  }
  while (true) {
    pollfd ready{agent.descriptor(), POLLIN, 0};
    poll(&ready, 1, -1);
    agent.handle();
  }
}

}  // namespace
}  // namespace vmtest::guest

int main(int argc, char** argv) {
  using namespace vmtest::guest;  // NOLINT(google-build-using-namespace)
  if (argc == 2 && std::string_view(argv[1]) == "agent") {
    return be_the_agent();
  }
  if (getpid() != 1) {
    constexpr std::string_view kUsage =
        "This is the first process of a vmtest guest; the kernel starts it. As the agent of another guest: guest-init agent\n";
    (void)!write(STDERR_FILENO, kUsage.data(), kUsage.size());
    return 2;
  }
  umask(022);
  // Programs are looked up by our own PATH, and the kernel gives none that has /usr.
  setenv("PATH", kProgramPath, 1);
  Timeline timeline;
  timeline.mark("kernel");
  mount_early();
  // With `quiet` the kernel says nothing: this line tells who watches the console that it is up.
  write_console("vmtest-init: started\n");
  std::map<std::string, std::string> command_line = parse_command_line(find_file("/proc/cmdline").value_or(""));
  try {
    enter_root(command_line, timeline);
    Init init(std::move(command_line), std::move(timeline));
    init.run();
  } catch (const std::exception& error) {
    for (Announcement announcement = Announcement::failed(error.what()); announcement.print();) {
    }
  }
  // An init that ends is a kernel panic, which would hide the cause.
  while (true) {
    pause();
  }
}
