// A test process killed at any moment leaves nothing: no process, socket, lease, port, TAP device or run folder, within two
// seconds.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "image.h"
#include "own_ledger.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"
#include "vmtest/qemu_driver.h"
#include "vmtest/template_store.h"
#include "vmtest/vm_test.h"
#include "wait.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;

/// Set in the process that is to be killed: it lives one VM's life over and over, noting each phase in a file.
constexpr const char* kVictim = "VMTEST_KILL_VICTIM";

/// The image of the victim's VM, and its network: "user" or "tap".
constexpr const char* kVictimImage = "VMTEST_KILL_IMAGE";
constexpr const char* kVictimNetwork = "VMTEST_KILL_NETWORK";

[[noreturn]] void be_the_victim(const std::filesystem::path& phase_file) {
  const auto phase = [&](const char* name) {  // whole or not at all, for who reads it meanwhile
    write_file(phase_file.string() + ".new", name);
    std::filesystem::rename(phase_file.string() + ".new", phase_file);
  };
  try {
    phase("boot");
    VmSpec spec;
    spec.name = "victim-" + std::to_string(::getpid());
    spec.image = std::string(std::getenv(kVictimImage));
    spec.user = "root";
    if (std::getenv(kVictimNetwork) == std::string_view("tap")) spec.network = Network::Tap;
    if (spec.image.label() == "tiny") {
      spec.memory_mib = 256;
    } else {
      spec.vcpus = 2;
      spec.memory_mib = 768;
    }
    {
      Vm vm = Vm::boot(spec);
      phase("ssh");
      for (int i = 0; i < 3; ++i) (void)vm.exec("dd if=/dev/zero bs=64k count=20 2>/dev/null");
      phase("copy");
      const TemporaryDirectory folder;
      write_file(folder.path() / "big", std::string(4 << 20, 'x'));
      for (int i = 0; i < 3; ++i) vm.push(folder.path() / "big", "/tmp/big");
      phase("tear-down");
    }
    phase("end");
    for (;;) ::pause();
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
    std::string line;
    std::string environment;
    try {
      line = read_file(entry.path() / "cmdline");
      environment = read_file(entry.path() / "environ");  // a child that was only forked has the victim's
    } catch (const std::exception&) {                     // it ended meanwhile
    }
    if ((line + environment).find(home.string()) != std::string::npos)
      found.push_back(pid + " " + line.substr(0, line.find('\0')));
  }
  return found;
}

class KillTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::require_image("tiny");
    if (IsSkipped()) return;
    const char* given = std::getenv("VMTEST_KILL_SEED");
    const unsigned seed = given != nullptr ? static_cast<unsigned>(std::stoul(given)) : std::random_device{}();
    std::printf("seed %u (VMTEST_KILL_SEED repeats it)\n", seed);
    random_.seed(seed);
    own_ledger_ = testing::take_own_ledger();
    // A home of its own, so that what is left can be told from other tests' VMs. The images are the user's.
    std::filesystem::create_directories(home_ / "data");
    std::filesystem::create_directory_symlink(data_dir() / "images", home_ / "data" / "images");
  }

  /// Starts a victim with a VM of that image.
  ChildProcess start(const std::string& image) {
    std::filesystem::remove(phase_file_);
    ProcessOptions options;
    options.argv = {program_};
    options.environment = {{kVictim, phase_file_.string()},
                           {kVictimImage, image},
                           {kVictimNetwork, network_},
                           {"VMTEST_HOME", home_.string()},
                           {"VMTEST_FORK", fork_mode_}};
    ChildProcess victim = ChildProcess::start(options);
    victims_.insert(name_of(victim));
    return victim;
  }
  static std::string name_of(const ChildProcess& victim) { return "victim-" + std::to_string(victim.pid()); }
  /// What the victim is at. The parts of its boot are told by what its VM's folder holds.
  [[nodiscard]] std::string phase(const ChildProcess& victim) const {
    std::error_code ignored;
    const std::string said = std::filesystem::exists(phase_file_) ? read_file(phase_file_) : "start";
    if (said != "boot") return said;
    const auto vm = home_ / "data" / "vms" / name_of(victim);
    const std::string console = read_file_tail(vm / "console.log", 4096);
    if (!console.empty()) return "boot";
    if (std::filesystem::exists(vm / "seed.iso", ignored)) return "spawn";
    return std::filesystem::exists(vm, ignored) ? "clone" : "start";
  }
  /// Kills a victim when it has been in `phase` for up to `most`, and expects that nothing of it is left soon after.
  void kill_in(const std::string& phase_wanted, std::chrono::milliseconds most, const std::string& image) {
    ChildProcess victim = start(image);
    const auto order = [](const std::string& name) {
      const auto at = std::find(kPhases.begin(), kPhases.end(), name);
      return at == kPhases.end() ? std::ptrdiff_t{-1} : at - kPhases.begin();
    };
    // A short phase may pass between two looks: what matters is that the moment is drawn around it. The victim may have to wait
    // for a distribution's boot on a crowded host.
    const bool has_news = testing::wait_until(
        [&] { return order(phase(victim)) >= order(phase_wanted) || phase(victim).starts_with("error"); }, Deadline::after(400s));
    ASSERT_TRUE(has_news && order(phase(victim)) >= order(phase_wanted))
        << "the victim did not come to " << phase_wanted << ": " << phase(victim);
    const auto wait = std::chrono::microseconds(std::uniform_int_distribution<long>(0, most.count() * 1000)(random_));
    ASSERT_FALSE(victim.wait(Deadline::after(std::chrono::duration_cast<std::chrono::milliseconds>(wait)))) << phase(victim);
    const std::string at = phase(victim);
    note_host_side(victim);
    ::kill(victim.pid(), SIGKILL);
    (void)victim.wait(Deadline::after(5s));
    const bool clean = testing::wait_until([&] { return leftovers().empty(); }, Deadline::after(2s));
    EXPECT_TRUE(clean) << "killed in phase " << at << ", left:\n" << leftovers();
    std::printf("killed %lld ms after %s began, in phase %s\n", static_cast<long long>(wait.count() / 1000), phase_wanted.c_str(),
                at.c_str());
    killed_in_.insert(at);
  }
  /// Expects that victims were killed in these phases. A quick host is through with a phase before it can be hit by chance: it is
  /// tried again then.
  void expect_kills_in(std::initializer_list<const char*> phases) {
    for (const char* wanted : phases) {
      for (int more = 0; more < 10 && !killed_in_.contains(wanted); ++more) kill_in(wanted, 3ms, "tiny");
      EXPECT_TRUE(killed_in_.contains(wanted)) << wanted;
    }
    EXPECT_TRUE(had_port_) << "none of them had its port when it was killed";
  }
  /// Keeps in mind what a victim's VM has of the host. It may have nothing yet, or no longer.
  void note_host_side(const ChildProcess& victim) {
    had_port_ = had_port_ || !Ledger().ports().empty();
    VmHandle vm;
    try {
      vm = parse_vm_handle(read_file(home_ / "data" / "vms" / name_of(victim) / "handle.json"));
    } catch (const std::exception&) {
      return;
    }
    ifaddrs* all = nullptr;
    if (vm.gateway.empty() || ::getifaddrs(&all) != 0) return;
    for (const ifaddrs* entry = all; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
      std::array<char, INET_ADDRSTRLEN> text{};
      ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr, text.data(), text.size());
      // By its number: the name may be another VM's the next moment.
      if (vm.gateway == text.data()) taps_.insert(::if_nametoindex(entry->ifa_name));
    }
    ::freeifaddrs(all);
  }
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
      // In a ledger that is not ours alone others may be killing victims at this moment.
      if (own_ledger_ || victims_.contains(vm.name)) text += "lease " + vm.name + "\n";
    }
    for (const std::uint16_t port : Ledger().ports()) {
      if (own_ledger_) text += "port " + std::to_string(port) + "\n";
    }
    std::array<char, IF_NAMESIZE> name{};
    for (const unsigned tap : taps_) {
      if (::if_indextoname(tap, name.data()) != nullptr) text += "TAP " + std::string(name.data()) + "\n";
    }
    return text;
  }

  /// What a victim goes through, in order.
  inline static const std::vector<std::string> kPhases = {"start", "clone", "spawn", "boot", "ssh", "copy", "tear-down", "end"};

  /// Looked up before the mount namespace is left: seen from another one, it is a path outside a chroot.
  std::string program_ = std::filesystem::read_symlink("/proc/self/exe").string();
  std::string fork_mode_ = "never";
  std::string network_ = "user";
  std::mt19937 random_;
  std::multiset<std::string> killed_in_;
  std::set<std::string> victims_;
  /// Whether no other test's VMs are in the ledger: a port says nothing of who has it.
  bool own_ledger_ = false;
  bool had_port_ = false;
  std::set<unsigned> taps_;
  TemporaryDirectory folder_;
  std::filesystem::path home_ = folder_.path() / "home";
  std::filesystem::path phase_file_ = folder_.path() / "phase";
};

TEST_F(KillTest, NothingOutlivesTheTestProcessAtTwentyMoments) {
  for (int round = 0; round < 3; ++round) {
    kill_in("start", 10ms, "tiny");
    kill_in("clone", 40ms, "tiny");
    kill_in("spawn", 60ms, "tiny");
    kill_in("boot", 2500ms, "tiny");
    kill_in("ssh", 400ms, "tiny");
    kill_in("copy", 700ms, "tiny");
    kill_in("tear-down", 40ms, "tiny");
  }
  expect_kills_in({"clone", "spawn", "boot", "ssh", "copy", "tear-down"});
}

TEST_F(KillTest, NothingOutlivesTheTestProcessOnATap) {
  if (const Support taps = QemuDriver().support(Capability::Tap); !taps.supported()) GTEST_SKIP() << taps.why;
  network_ = "tap";
  fork_mode_ = "require";
  for (int round = 0; round < 2; ++round) {
    kill_in("spawn", 60ms, "tiny");
    kill_in("ssh", 400ms, "tiny");
    kill_in("tear-down", 40ms, "tiny");
  }
  EXPECT_FALSE(taps_.empty()) << "none of them had its TAP when it was killed";
}

TEST_F(KillTest, NothingOutlivesAForkEither) {
  fork_mode_ = "require";
  kill_in("ssh", 50ms, "tiny");  // makes the template
  for (int round = 0; round < 3; ++round) {
    kill_in("start", 60ms, "tiny");
    kill_in("clone", 150ms, "tiny");
    kill_in("ssh", 400ms, "tiny");
    kill_in("tear-down", 40ms, "tiny");
  }
  // The seed is its template's, and the console has nothing until the guest continues: what comes before is one phase.
  expect_kills_in({"clone", "ssh", "tear-down"});
}

TEST_F(KillTest, KilledPublisherLeavesNoHalfTemplate) {
  fork_mode_ = "require";
  const TemplateStore store(home_ / "cache" / "templates");
  /// Folders that are being filled, or all others.
  const auto folders = [&](bool is_staging) {
    std::set<std::string> names;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(store.folder(), ignored)) {
      const std::string name = entry.path().filename().string();
      if (entry.is_directory(ignored) && name.starts_with('.') == is_staging) names.insert(name);
    }
    return names;
  };
  bool left_staging = false;
  bool left_template = false;
  // How long publishing takes depends on the host: the moment is drawn later and later until it was too late once.
  int most_ms = 100;
  for (int round = 0; round < 4 || (round < 12 && !(left_staging && left_template)); ++round) {
    ChildProcess victim = start("tiny");
    ASSERT_TRUE(testing::wait_until([&] { return !folders(true).empty() || !folders(false).empty(); }, Deadline::after(120s)));
    const auto wait = std::chrono::milliseconds(std::uniform_int_distribution<int>(0, most_ms)(random_));
    (void)victim.wait(Deadline::after(wait));
    ::kill(victim.pid(), SIGKILL);
    (void)victim.wait(Deadline::after(5s));
    EXPECT_TRUE(testing::wait_until([&] { return leftovers().empty(); }, Deadline::after(2s))) << leftovers();
    std::set<std::string> whole;
    for (const TemplateInfo& tmpl : store.list()) {
      EXPECT_EQ(store.verify(tmpl), "");
      whole.insert(tmpl.folder.filename());
    }
    EXPECT_EQ(folders(false), whole) << "one of them has no manifest";
    std::printf("killed %lld ms after publishing began; %zu templates, %zu half ones\n", static_cast<long long>(wait.count()),
                whole.size(), folders(true).size());
    left_staging = left_staging || !folders(true).empty();
    left_template = left_template || !whole.empty();
    most_ms = left_template ? (left_staging ? most_ms : most_ms / 2) : most_ms * 2;
    for (const TemplateInfo& tmpl : store.list()) EXPECT_TRUE(store.remove(tmpl.key));
    (void)store.collect({});
    EXPECT_TRUE(folders(true).empty());
  }
  EXPECT_TRUE(left_staging) << "none was killed while it published";
  EXPECT_TRUE(left_template) << "none was killed after it had published";
}

TEST_F(KillTest, NothingOutlivesTheTestProcessDuringSftp) {
  testing::require_image("debian-12");
  if (IsSkipped()) return;
  // A boot has nothing to do with it: the user's template is continued, or made.
  std::filesystem::create_directories(cache_dir());
  std::filesystem::create_directory_symlink(cache_dir(), home_ / "cache");
  fork_mode_ = "require";
  // A quick host may be through with it before the moment comes.
  for (int kills = 0; kills < 9 && killed_in_.count("copy") < 3; ++kills) kill_in("copy", 900ms, "debian-12");
  EXPECT_GE(killed_in_.count("copy"), 3U);
}

}  // namespace
}  // namespace vmtest

int main(int argc, char** argv) {
  if (const char* victim = std::getenv("VMTEST_KILL_VICTIM")) vmtest::be_the_victim(victim);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
