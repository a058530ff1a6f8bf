// Boots that cannot succeed: each must end soon, name its cause, show the console's end, and leave nothing but evidence.

#include <elf.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "boot_failure.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/socket.h"
#include "vmtest/vm_test.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;
using namespace std::string_view_literals;

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

TEST_F(BootFailureTest, PanicIsNamed) {
  VmSpec spec;
  spec.extra_command_line = "rdinit=/no/such/init root=/dev/nothing";
  const std::string text = failure(spec);
  EXPECT_TRUE(contains(text, "kernel panic")) << text;
  EXPECT_TRUE(contains(text, "Unable to mount root fs")) << text;
  EXPECT_TRUE(std::filesystem::exists(evidence_ / "console.log"));
  EXPECT_TRUE(std::filesystem::exists(evidence_ / "spec.json"));
  EXPECT_TRUE(std::filesystem::exists(evidence_ / "timeline.txt"));
  expect_nothing_left();
}

TEST_F(BootFailureTest, FailingSetupCommandIsNamed) {
  const std::string text = failure(with_setup({"true", "echo why >&2; exit 4"}));
  EXPECT_TRUE(contains(text, "failed guest set-up")) << text;
  EXPECT_TRUE(contains(text, "exit code 4")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, GuestOutOfMemoryIsNamed) {
  // The kernel itself is told to look for a process to kill, as it does when there is no memory left.
  const std::string text = failure(with_setup({"echo f > /proc/sysrq-trigger; sleep 1000"}));
  EXPECT_TRUE(contains(text, "out of memory: ")) << text;
  EXPECT_TRUE(contains(text, "Killed process")) << text;
  expect_nothing_left();
}

/// A module of the guest's kernel with `code` at the begin of what runs when it is loaded, unsigned: a kernel refuses a module
/// whose signature is wrong and takes one that has none.
std::string module_that_runs(std::string module, std::string_view code) {
  const auto at = [&module](std::uint64_t offset) { return module.data() + offset; };
  Elf64_Ehdr header{};
  std::memcpy(&header, at(0), sizeof header);
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  std::memcpy(sections.data(), at(header.e_shoff), sections.size() * sizeof(Elf64_Shdr));
  const auto init = std::find_if(sections.begin(), sections.end(), [&](const Elf64_Shdr& section) {
    return std::string_view(at(sections[header.e_shstrndx].sh_offset + section.sh_name)) == ".init.text";
  });
  if (init == sections.end()) throw std::runtime_error("the module has no .init.text");
  // The first five bytes are the tracer's call, which the kernel itself rewrites.
  std::memcpy(at(init->sh_offset + 5), code.data(), code.size());
  constexpr std::string_view kSigned = "~Module signature appended~\n";
  if (module.size() > kSigned.size() && std::string_view(module).substr(module.size() - kSigned.size()) == kSigned) {
    module.resize(module.size() - kSigned.size());
  }
  return module;
}

TEST_F(BootFailureTest, OopsIsNamed) {
  std::string dummy;
  {
    Vm vm = Vm::boot({});
    const std::string release = vm.run("uname -r").out;
    const std::string path = "/lib/modules/" + release.substr(0, release.find('\n')) + "/kernel/drivers/net/dummy.ko";
    vm.pull(path, folder_.path() / "dummy.ko");
    dummy = read_file(folder_.path() / "dummy.ko");
  }
  const struct {
    std::string_view code;
    const char* said;
  } faults[] = {{"\x31\xc0\x8b\x00"sv, "BUG: kernel NULL pointer dereference"},
                {"\x0f\x0b"sv, "invalid opcode: 0000 [#1]"},
                {"\x31\xc9\xf7\xf1"sv, "divide error: 0000 [#1]"}};
  for (const auto& fault : faults) {
    // It ends the program that loads the module, and no more: the guest would go on.
    VmSpec spec = with_setup({"insmod /tmp/broken.ko || true; sleep 1000"});
    spec.boot_timeout = 30s;
    spec.files.push_back({.path = "/tmp/broken.ko", .content = module_that_runs(dummy, fault.code)});
    const std::string text = failure(spec);
    EXPECT_TRUE(contains(text, "kernel oops: ")) << text;
    EXPECT_TRUE(contains(text, fault.said)) << text;
    expect_nothing_left();
  }
}

TEST_F(BootFailureTest, PanicBeforeTheFirstSessionIsNamed) {
  // Its server accepts no connection, and a moment after the marker it panics.
  const std::string text =
      failure(with_setup({"kill -STOP $(pidof dropbear); (sleep 1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &"}));
  EXPECT_TRUE(contains(text, "Kernel panic - not syncing: sysrq triggered crash")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, GuestThatNeverPrintsTheMarkerTimesOut) {
  VmSpec spec = with_setup({"sleep 1000"});
  spec.boot_timeout = 2s;
  const std::string text = failure(spec);
  EXPECT_TRUE(contains(text, "did not print its marker")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, GuestThatPowersItselfOffIsNamed) {
  const std::string text = failure(with_setup({"poweroff -f"}));
  EXPECT_TRUE(contains(text, "ended before it was ready")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, ServerThatRefusesTheKeyIsNamed) {
  VmSpec spec = with_setup({"rm -f /root/.ssh/authorized_keys"});
  const std::string text = failure(spec);
  EXPECT_TRUE(contains(text, "there is no SSH session")) << text;
  EXPECT_TRUE(contains(text, "refuses our key")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, HypervisorThatExitsAtOnceShowsItsWords) {
  VmSpec spec;
  spec.extra_arguments = {"-no-such-option"};
  const std::string text = failure(spec);
  EXPECT_TRUE(contains(text, "-no-such-option: invalid option")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, TakenPortIsNamed) {
  VmSpec spec;
  const FileDescriptor taken = [] {
    FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(fd.get(), 1), 0);
    return fd;
  }();
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ASSERT_EQ(::getsockname(taken.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  spec.ssh_port = ntohs(address.sin_port);
  EXPECT_TRUE(contains(failure(spec), std::to_string(*spec.ssh_port).c_str()));
  expect_nothing_left();
}

TEST_F(BootFailureTest, UnknownImageSaysWhichThereAre) {
  VmSpec spec;
  spec.image = "no-such-image";
  EXPECT_TRUE(contains(failure(spec), "\"no-such-image\" (x86_64) is unknown"));
}

TEST_F(BootFailureTest, ImageThatIsNoneIsRefused) {
  write_file(folder_.path() / "text.qcow2", "this is text");
  EXPECT_THROW((void)Image::file(folder_.path() / "text.qcow2", DiskFormat::Qcow2), Error);
}

TEST_F(BootFailureTest, EmptyDiskHasNothingToBoot) {
  run_tool({"qemu-img", "create", "-q", "-f", "qcow2", (folder_.path() / "empty").string(), "16M"}, Deadline::after(20s));
  VmSpec spec;
  spec.image = Image::file(folder_.path() / "empty", DiskFormat::Qcow2);
  spec.boot_timeout = 1s;
  const std::string text = failure(spec);
  EXPECT_TRUE(contains(text, "did not print its marker")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, TooMuchMemoryForThisHostIsUnsupported) {
  VmSpec spec;
  spec.memory_mib = 8U << 20;
  EXPECT_THROW((void)Vm::boot(spec), Unsupported);
}

TEST_F(BootFailureTest, NameInUseIsRefused) {
  VmSpec spec;
  spec.name = "taken-" + std::to_string(::getpid());
  const Vm first = Vm::boot(spec);
  EXPECT_THROW((void)Vm::boot(spec, {.evidence_dir = folder_.path() / "evidence"}), Error);
  EXPECT_EQ(first.state(), VmState::Ready);
}

TEST_F(BootFailureTest, MissingQemuSaysWhatToInstall) {
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", folder_.path().c_str(), 1);
  const std::string text = failure({});
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_TRUE(contains(text, "apt-get install qemu-system-x86")) << text;
}

}  // namespace
}  // namespace vmtest
