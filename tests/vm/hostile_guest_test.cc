// Guests that lie, break their promises or attack the host that tests them.

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "boot_failure.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/// The guest prints `line` in the marker's place and then nothing more.
VmSpec with_marker(const std::string& line) {
  VmSpec spec;
  spec.setup_commands = {"echo '" + line + "' > /dev/console; sleep 1000"};
  spec.boot_timeout = 4s;  // all of it is waited for, and a boot on a busy host must have come that far
  return spec;
}

TEST_F(BootFailureTest, MarkerWithABrokenAddressIsNamed) {
  const std::string text = failure(with_marker("VMRS_READY 10.0.2.999"));
  EXPECT_TRUE(contains(text, "what it printed has no valid address: VMRS_READY 10.0.2.999")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, MarkerWithoutAnAddressIsNamed) {
  const std::string text = failure(with_marker("VMRS_READY"));
  EXPECT_TRUE(contains(text, "what it printed has no valid address: VMRS_READY")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, WrongHostKeyIsRefused) {
  const std::string text = failure(with_setup({
      "rm /etc/dropbear/dropbear_ed25519_host_key; dropbearkey -t ed25519 -f /etc/dropbear/dropbear_ed25519_host_key",
      // Comes back with the new key by itself.
      "killall dropbear; until grep -q ':0016 00000000:0000 0A' /proc/net/tcp; do sleep 0.1; done",
  }));
  EXPECT_TRUE(contains(text, "there is no SSH session")) << text;
  EXPECT_TRUE(contains(text, "host key")) << text;
  expect_nothing_left();
}

TEST_F(BootFailureTest, ConsoleTextReachesErrorsHarmless) {
  const std::string text = failure(with_setup({
      R"(printf '\033[2J\033]0;owned\007\n::error::injected\n##vso[task.complete result=Failed]\n' > /dev/console)",
      "false",
  }));
  EXPECT_TRUE(contains(text, "failed guest set-up")) << text;
  EXPECT_TRUE(contains(text, "injected")) << text;
  EXPECT_EQ(text.find('\x1b'), std::string::npos) << text;
  EXPECT_EQ(text.find('\a'), std::string::npos) << text;
  EXPECT_FALSE(contains(text, "\n::")) << text;
  EXPECT_FALSE(contains(text, "\n##")) << text;
}

/// A file system of `size`, mounted while it lives.
class SmallFileSystem {
 public:
  SmallFileSystem(const std::filesystem::path& at, const char* size) : at_(at) {
    std::filesystem::create_directories(at);
    mounted_ = ::mount("tmpfs", at.c_str(), "tmpfs", 0, (std::string("size=") + size).c_str()) == 0;
  }
  ~SmallFileSystem() {
    if (mounted_) ::umount2(at_.c_str(), MNT_DETACH);
  }
  SmallFileSystem(const SmallFileSystem&) = delete;
  SmallFileSystem& operator=(const SmallFileSystem&) = delete;
  [[nodiscard]] bool mounted() const { return mounted_; }

 private:
  std::filesystem::path at_;
  bool mounted_ = false;
};

TEST_F(BootFailureTest, FullDiskIsNamedWhileCloning) {
  const auto home = folder_.path() / "home";
  const SmallFileSystem full(home, "128k");
  if (!full.mounted()) GTEST_SKIP() << "mounting a small file system needs root";
  std::filesystem::create_directories(home / "data");
  std::filesystem::create_directory_symlink(data_dir() / "images", home / "data" / "images");
  const char* before = std::getenv("VMTEST_HOME");
  const std::string old = before == nullptr ? "" : before;
  ::setenv("VMTEST_HOME", home.c_str(), 1);
  const std::string text = failure({});
  expect_nothing_left();
  if (before == nullptr) ::unsetenv("VMTEST_HOME");
  else ::setenv("VMTEST_HOME", old.c_str(), 1);
  EXPECT_TRUE(contains(text, "cannot clone ")) << text;
  EXPECT_TRUE(contains(text, "No space left on device")) << text;
  EXPECT_TRUE(std::filesystem::is_empty(home / "data" / "vms"));
}

class HostileGuestTest : public VmTest {
 protected:
  TemporaryDirectory folder_;
};

/// A POSIX tar archive of one file, whatever its name.
std::string tar_of(const std::string& name, const std::string& content) {
  std::string header(512, '\0');
  const auto put = [&](std::size_t at, const std::string& text) { header.replace(at, text.size(), text); };
  char size[12];
  std::snprintf(size, sizeof size, "%011zo", content.size());
  put(0, name);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124, size);
  put(136, "00000000000");
  put(148, "        ");
  put(156, "0");
  put(257, std::string("ustar\0"
                       "00",
                       8));
  unsigned sum = 0;
  for (const char byte : header) sum += static_cast<unsigned char>(byte);
  char checksum[8];
  std::snprintf(checksum, sizeof checksum, "%06o", sum);
  put(148, std::string(checksum, 7));
  std::string body = content;
  body.resize((content.size() + 511) / 512 * 512);
  return header + body + std::string(1024, '\0');
}

/// A guest whose login shell answers for tar.
class HostileArchiveTest : public VmTest {
 protected:
  [[nodiscard]] VmSpec spec() const override {
    VmSpec spec;
    spec.files = {{"/evil.tar", tar_of("../../x", "gotcha")},
                  {"/evil", "#!/bin/sh\ncase \"$*\" in *'tar -cf'*) exec cat /evil.tar ;; esac\nexec /bin/sh \"$@\"\n", 0755}};
    spec.setup_commands = {"echo /evil >> /etc/shells; sed -i 's|^root:\\(.*\\):/bin/sh|root:\\1:/evil|' /etc/passwd",
                           "grep -q evil /etc/passwd"};
    return spec;
  }
  TemporaryDirectory folder_;
};

TEST_F(HostileArchiveTest, PulledFolderCannotLeaveItsTarget) {
  const auto target = folder_.path() / "deep" / "er" / "target";
  std::filesystem::create_directories(target.parent_path());
  try {
    vm().pull("/tmp", target);
    FAIL() << "it was taken";
  } catch (const Error& error) {
    EXPECT_TRUE(contains(error.what(), "..")) << error.what();
  }
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "x"));
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "deep" / "x"));
}

TEST_F(HostileGuestTest, FloodOfOutputArrivesWhole) {
  constexpr std::size_t kSize = 100U << 20;
  GuestCommand command{"dd if=/dev/zero bs=1M count=100 2>/dev/null"};
  command.timeout = 150s;
  EXPECT_EQ(vm().run(command).out.size(), kSize);
}

TEST_F(HostileGuestTest, FloodOfOutputCanBeBounded) {
  GuestCommand command{"dd if=/dev/zero bs=1M count=20 2>/dev/null"};
  command.timeout = 100s;
  command.output_limit = 1 << 20;
  std::size_t streamed = 0;
  command.on_stdout = [&](std::string_view piece) { streamed += piece.size(); };
  const CommandResult result = vm().exec(command);
  EXPECT_EQ(result.out.size(), 1U << 20);
  EXPECT_TRUE(result.truncated);
  EXPECT_EQ(streamed, 20U << 20);
}

}  // namespace
}  // namespace vmtest
