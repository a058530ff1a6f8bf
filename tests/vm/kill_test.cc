// A test process killed at any moment leaves nothing: no process, socket, lease or run folder, within two seconds.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>

#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"
#include "vmtest/vm_test.h"
#include "wait.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

/// Set in the process that is to be killed: it lives one VM's life over and over, noting each phase in a file.
constexpr const char* kVictim = "VMTEST_KILL_VICTIM";

[[noreturn]] void be_the_victim(const std::filesystem::path& phase_file) {
  const auto phase = [&](const char* name) { write_file(phase_file, name); };
  try {
    for (;;) {
      phase("boot");
      VmSpec spec;
      spec.name = "victim-" + std::to_string(::getpid());
      {
        Vm vm = Vm::boot(spec);
        phase("ssh");
        (void)vm.exec("dd if=/dev/zero bs=64k count=20 2>/dev/null");
        phase("copy");
        const TemporaryDirectory folder;
        write_file(folder.path() / "big", std::string(4 << 20, 'x'));
        vm.push(folder.path() / "big", "/tmp/big");
        phase("tear-down");
      }
    }
  } catch (const std::exception& error) {
    write_file(phase_file, std::string("error: ") + error.what());
  }
  ::_exit(1);
}

/// Processes whose command line or environment names this VMTEST_HOME.
std::vector<std::string> processes_of(const std::filesystem::path& home) {
  std::vector<std::string> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string pid = entry.path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos || pid == std::to_string(::getpid())) continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string line{std::istreambuf_iterator<char>(file), {}};
    if (line.find(home.string()) != std::string::npos) found.push_back(pid + " " + line.substr(0, line.find('\0')));
  }
  return found;
}

class KillTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      (void)ImageChoice("tiny").resolve(Architecture::X86_64);
    } catch (const Unsupported& reason) {
      GTEST_SKIP() << reason.what();
    }
    // A home of its own, so that what is left can be told from other tests' VMs. The images are the user's.
    std::filesystem::create_directories(home_ / "data");
    std::filesystem::create_directory_symlink(data_dir() / "images", home_ / "data" / "images");
  }

  /// Starts a victim.
  ChildProcess start() {
    std::filesystem::remove(phase_file_);
    ProcessOptions options;
    options.argv = {std::filesystem::read_symlink("/proc/self/exe").string()};
    options.environment = {{kVictim, phase_file_.string()}, {"VMTEST_HOME", home_.string()}};
    return ChildProcess::start(options);
  }
  [[nodiscard]] std::string phase() const { return std::filesystem::exists(phase_file_) ? read_file(phase_file_) : "start"; }
  /// What is left of the victims, one thing a line.
  [[nodiscard]] std::string leftovers() const {
    std::string text;
    std::error_code ignored;
    for (const std::string& process : processes_of(home_)) text += "process " + process + "\n";
    for (const auto& entry : std::filesystem::directory_iterator(home_ / "data" / "vms", ignored))
      text += "folder " + entry.path().string() + "\n";
    const auto sockets = ledger_dir() / sha256(home_.lexically_normal().string()).substr(0, 8);
    for (const auto& entry : std::filesystem::directory_iterator(sockets, ignored))
      text += "sockets " + entry.path().string() + "\n";
    for (const VmResources& vm : Ledger().admitted()) {
      if (vm.name.starts_with("victim-")) text += "lease " + vm.name + "\n";
    }
    return text;
  }

  TemporaryDirectory folder_;
  std::filesystem::path home_ = folder_.path() / "home";
  std::filesystem::path phase_file_ = folder_.path() / "phase";
};

/// Longest life of a victim before it is killed: a whole boot, commands, a copy and a tear-down, and a bit of the next.
constexpr int kLongestLifeMs = 12000;

TEST_F(KillTest, NothingOutlivesTheTestProcessAtTwentyMoments) {
  const char* given = std::getenv("VMTEST_KILL_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::atoi(given)) : std::random_device{}();
  std::printf("seed %u (VMTEST_KILL_SEED repeats it)\n", seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    // Half of the moments lie in the first second, where a VM is put together, the others anywhere in its life.
    const int most = round % 2 == 0 ? 400 : kLongestLifeMs;
    const auto life = std::chrono::milliseconds(std::uniform_int_distribution<int>(0, most)(random));
    ChildProcess victim = start();
    const auto ended = victim.wait(Deadline::after(life));
    const std::string at = phase();
    ASSERT_FALSE(ended) << "the victim ended by itself: " << at;
    ::kill(victim.pid(), SIGKILL);
    (void)victim.wait(Deadline::after(5s));
    const bool clean = testing::wait_until([&] { return leftovers().empty(); }, Deadline::after(2s));
    EXPECT_TRUE(clean) << "killed after " << life.count() << " ms in phase " << at << ", left:\n" << leftovers();
    std::printf("killed after %lld ms in phase %s\n", static_cast<long long>(life.count()), at.c_str());
  }
}

}  // namespace
}  // namespace vmtest

int main(int argc, char** argv) {
  if (const char* victim = std::getenv("VMTEST_KILL_VICTIM")) vmtest::be_the_victim(victim);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
