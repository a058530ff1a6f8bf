#include "vmtest/host/ledger.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "ledger_platform.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/socket.h"
#include "wait.h"

namespace vmtest {
namespace {

using namespace std::chrono_literals;
using testing::wait_until;

constexpr unsigned kNoLimit = std::numeric_limits<unsigned>::max();

Deadline soon() { return Deadline::after(20s); }

/// Another process that runs `body`, says that it has, and waits to be killed.
class OtherProcess {
 public:
  explicit OtherProcess(const std::function<void()>& body) {
    Pipe ready = make_pipe();
    pid_ = ::fork();
    if (pid_ == 0) {
      body();
      write_all(ready.write_end.get(), "x");
      for (;;) ::pause();
    }
    ready.write_end.reset();
    char c = 0;
    is_ready_ = wait_readable(ready.read_end.get(), soon()) && ::read(ready.read_end.get(), &c, 1) == 1;
  }
  ~OtherProcess() { kill(); }
  OtherProcess(const OtherProcess&) = delete;
  OtherProcess& operator=(const OtherProcess&) = delete;
  [[nodiscard]] bool is_ready() const { return is_ready_; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  bool is_ready_ = false;
};

class LedgerTest : public ::testing::Test {
 protected:
  /// A ledger of the same file, as another process would have it.
  [[nodiscard]] Ledger other() const { return Ledger(folder_.path() / "ledger", {1000, 8}); }

  TemporaryDirectory folder_;
  Ledger ledger_ = other();
};

TEST_F(LedgerTest, AdmitsWhatFits) {
  const auto leases = ledger_.admit({{"one", 600, 4}, {"two", 400, 4}}, soon());
  EXPECT_EQ(leases.size(), 2U);
  ASSERT_EQ(other().admitted().size(), 2U);
  EXPECT_EQ(other().admitted()[0].name, "one");
  EXPECT_EQ(other().admitted()[1].memory_mib, 400U);
  EXPECT_EQ(other().admitted()[1].vcpus, 4U);
}

TEST_F(LedgerTest, WaitsForMemoryAndSaysWhoHoldsIt) {
  const auto held = ledger_.admit({{"hog", 900, 1}}, soon());
  try {
    (void)other().admit({{"late", 200, 1}}, Deadline::after(30ms));
    FAIL() << "was admitted";
  } catch (const Timeout& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.find("waited in vain for 200 MiB and 1 vCPUs (the host has "), 0U) << text;
    EXPECT_TRUE(text.ends_with("; they are held by:\n  hog: 900 MiB, 1 vCPUs")) << text;
  }
}

TEST_F(LedgerTest, TellsWhetherSomebodyWaits) {
  const auto held = ledger_.admit({{"hog", 900, 1}}, soon());
  EXPECT_FALSE(ledger_.somebody_waits());
  std::thread late([&] { EXPECT_THROW((void)other().admit({{"late", 200, 1}}, Deadline::after(2s)), Timeout); });
  EXPECT_TRUE(testing::wait_until([&] { return ledger_.somebody_waits(); }, soon()));
  late.join();
  EXPECT_FALSE(ledger_.somebody_waits());
}

TEST_F(LedgerTest, WaitsForCpus) {
  const auto held = ledger_.admit({{"hog", 1, 8}}, soon());
  EXPECT_THROW((void)other().admit({{"late", 1, 1}}, Deadline::after(30ms)), Timeout);
}

TEST_F(LedgerTest, WhatTheHostHasToSpareIsALimitUnlessNothingRuns) {
  Ledger ledger(folder_.path() / "ledger", {kNoLimit, 8});
  const auto too_much = static_cast<unsigned>(2 * available_memory_mib());
  EXPECT_EQ(ledger.admit({{"alone", too_much, 1}}, Deadline::after(0s)).size(), 1U);
  const auto held = ledger.admit({{"small", 1, 1}}, Deadline::after(0s));
  EXPECT_THROW((void)ledger.admit({{"second", too_much, 1}}, Deadline::after(0s)), Timeout);
  EXPECT_EQ(ledger.admit({{"another small", 1, 1}}, Deadline::after(0s)).size(), 1U);
}

TEST_F(LedgerTest, WhatIsAdmittedTogetherFitsThoughNothingIsTakenYet) {
  Ledger ledger(folder_.path() / "ledger", {kNoLimit, 8});
  const auto most = static_cast<unsigned>(available_memory_mib() * 6 / 10);
  const auto held = ledger.admit({{"first", most, 1}}, Deadline::after(0s));
  EXPECT_THROW((void)ledger.admit({{"second", most, 1}}, Deadline::after(0s)), Timeout);
  // Given its time, it has taken what it takes, and the host's available memory tells the rest.
  Ledger later(folder_.path() / "ledger", {kNoLimit, 8, 100ms});
  EXPECT_EQ(later.admit({{"third", most, 1}}, soon()).size(), 1U);
}

TEST_F(LedgerTest, NeverFittingIsUnsupportedAtOnce) {
  EXPECT_THROW((void)ledger_.admit({{"big", 1001, 1}}, soon()), Unsupported);
  EXPECT_THROW((void)ledger_.admit({{"wide", 1, 9}}, soon()), Unsupported);
  EXPECT_THROW((void)ledger_.admit({{"one", 600, 1}, {"two", 600, 1}}, soon()), Unsupported);
}

TEST_F(LedgerTest, FreedPlaceIsTakenByWhoWaits) {
  auto held = ledger_.admit({{"hog", 1000, 1}}, soon());
  std::thread waiter([&] { EXPECT_EQ(other().admit({{"late", 1000, 1}}, soon()).size(), 1U); });
  held.clear();
  waiter.join();
  EXPECT_TRUE(other().admitted().empty());
}

TEST_F(LedgerTest, FirstComeFirstServed) {
  // The big one came first; small ones that would fit must not starve it.
  auto held = ledger_.admit({{"hog", 600, 1}}, soon());
  std::atomic<bool> is_admitted = false;
  std::thread big([&] {
    const auto lease = other().admit({{"big", 800, 1}}, soon());
    is_admitted = true;
    EXPECT_TRUE(wait_until([&] { return !is_admitted.load(); }, soon()));
  });
  // In the queue once a small one has to wait behind it.
  EXPECT_TRUE(wait_until(
      [&] {
        try {
          (void)other().admit({{"small", 100, 1}}, Deadline::after(0s));
          return false;
        } catch (const Timeout&) {
          return true;
        }
      },
      soon()));
  EXPECT_FALSE(is_admitted);
  held.clear();
  EXPECT_TRUE(wait_until([&] { return is_admitted.load(); }, soon()));
  EXPECT_EQ(other().admit({{"small", 100, 1}}, soon()).size(), 1U);
  is_admitted = false;
  big.join();
}

TEST_F(LedgerTest, WhoHasAVmDoesNotWaitBehindThoseWhoWaitForIt) {
  auto held = ledger_.admit({{"first of two", 400, 1}}, soon());
  std::thread big([&] { EXPECT_EQ(other().admit({{"big", 800, 1}}, soon()).size(), 1U); });
  EXPECT_TRUE(wait_until([&] { return ledger_.somebody_waits(); }, soon()));
  {
    const auto second = ledger_.admit({{"second of two", 400, 1}}, Deadline::after(0s), Turn::Next);
    EXPECT_EQ(second.size(), 1U);
    EXPECT_THROW((void)ledger_.admit({{"third", 400, 1}}, Deadline::after(0s), Turn::Next), Timeout);
  }
  held.clear();
  big.join();
}

TEST_F(LedgerTest, NobodyOvertakesWhoHasAVmAndWaitsForAnother) {
  auto first = ledger_.admit({{"first of two", 700, 1}}, soon());
  auto held = ledger_.admit({{"hog", 200, 1}}, soon());
  std::thread small([&] { EXPECT_THROW((void)other().admit({{"small", 300, 1}}, Deadline::after(1s)), Timeout); });
  EXPECT_TRUE(wait_until([&] { return ledger_.somebody_waits(); }, soon()));
  EXPECT_FALSE(ledger_.somebody_is_next());
  std::thread second([&] { EXPECT_EQ(other().admit({{"second of two", 400, 1}}, soon(), Turn::Next).size(), 1U); });
  EXPECT_TRUE(wait_until([&] { return ledger_.somebody_is_next(); }, soon()));
  held.clear();  // there is room for the small one, which came before
  small.join();
  first.clear();
  second.join();
  EXPECT_FALSE(ledger_.somebody_is_next());
}

TEST_F(LedgerTest, WhoNeedsNothingAnyMoreLeavesTheQueue) {
  const auto held = ledger_.admit({{"hog", 600, 1}}, soon());
  int looks = 0;
  EXPECT_TRUE(other().admit({{"big", 800, 1}}, soon(), Turn::Queued, [&] { return ++looks == 3; }).empty());
  EXPECT_EQ(looks, 3);
  EXPECT_FALSE(ledger_.somebody_waits());
}

TEST_F(LedgerTest, WhoGaveUpWaitingHoldsUpNobody) {
  const auto held = ledger_.admit({{"hog", 600, 1}}, soon());
  EXPECT_THROW((void)other().admit({{"big", 800, 1}}, Deadline::after(20ms)), Timeout);
  EXPECT_EQ(other().admit({{"small", 100, 1}}, soon()).size(), 1U);
}

TEST_F(LedgerTest, LeaseOfAKilledProcessIsFreeAtOnce) {
  OtherProcess owner([&] { new std::vector<Lease>(other().admit({{"dead", 1000, 8}}, soon())); });
  ASSERT_TRUE(owner.is_ready());
  ASSERT_EQ(ledger_.admitted().size(), 1U);
  owner.kill();
  EXPECT_TRUE(ledger_.admitted().empty());
  EXPECT_EQ(ledger_.admit({{"next", 1000, 8}}, Deadline::after(0s)).size(), 1U);
}

TEST_F(LedgerTest, KilledWaiterHoldsUpNobody) {
  const auto held = ledger_.admit({{"hog", 600, 1}}, soon());
  OtherProcess waiter([&] { new std::thread([&] { (void)other().admit({{"big", 800, 1}}, soon()); }); });
  ASSERT_TRUE(waiter.is_ready());
  EXPECT_TRUE(wait_until(
      [&] {
        try {
          (void)other().admit({{"small", 100, 1}}, Deadline::after(0s));
          return false;
        } catch (const Timeout&) {
          return true;
        }
      },
      soon()));
  waiter.kill();
  EXPECT_EQ(other().admit({{"small", 100, 1}}, Deadline::after(0s)).size(), 1U);
}

TEST_F(LedgerTest, StoppedProcessThatChangesItIsAnErrorAndNoEndlessWait) {
  (void)ledger_.admitted();
  OtherProcess stopped([this] {
    const int file = open_file(folder_.path() / "ledger", O_RDWR | O_CREAT, 0600).release();
    if (!try_lock_byte(file, 0)) ::_exit(1);
  });
  ASSERT_TRUE(stopped.is_ready());
  try {
    (void)ledger_.admit({{"next", 100, 1}}, soon());
    FAIL() << "admitted though the ledger is locked";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("fuser -v " + (folder_.path() / "ledger").string()), std::string::npos)
        << error.what();
  }
  stopped.kill();
  EXPECT_EQ(ledger_.admit({{"next", 100, 1}}, soon()).size(), 1U);
}

TEST_F(LedgerTest, LeasePassesWithItsDescriptor) {
  const auto [sender, receiver] = make_socket_pair();
  auto leases = ledger_.admit({{"handed over", 1000, 8}}, soon());
  send_message(sender.get(), "lease", leases[0].descriptor());
  OtherProcess heir([&leases, socket = receiver.get()] {
    std::string data;
    auto* fds = new std::vector<FileDescriptor>;
    (void)receive_some(socket, data, *fds);
    leases.clear();  // the copies that fork made are no part of this
  });
  ASSERT_TRUE(heir.is_ready());
  leases.clear();
  EXPECT_EQ(ledger_.admitted().size(), 1U);
  heir.kill();
  EXPECT_TRUE(ledger_.admitted().empty());
}

TEST_F(LedgerTest, PortHasOneOwner) {
  const std::uint16_t port = ephemeral_port();
  const auto lease = ledger_.try_port(port);
  ASSERT_TRUE(lease);
  EXPECT_FALSE(ledger_.try_port(port));
  EXPECT_FALSE(other().try_port(port));
}

TEST_F(LedgerTest, PortHasOneOwnerAmongProcesses) {
  const std::uint16_t port = ephemeral_port();
  OtherProcess owner([&] { new std::optional<Lease>(other().try_port(port)); });
  ASSERT_TRUE(owner.is_ready());
  EXPECT_FALSE(ledger_.try_port(port));
  owner.kill();
  EXPECT_TRUE(ledger_.try_port(port));
}

TEST_F(LedgerTest, PortRacedForIsWonOnce) {
  const std::uint16_t port = ephemeral_port();
  std::atomic<int> winners = 0;
  std::vector<std::optional<Lease>> leases(8);
  std::vector<std::thread> racers;
  for (auto& lease : leases) {
    racers.emplace_back([&] {
      lease = other().try_port(port);
      winners += lease ? 1 : 0;
    });
  }
  for (std::thread& racer : racers) racer.join();
  EXPECT_EQ(winners, 1);
}

TEST_F(LedgerTest, PortThatSomebodyListensOnIsTaken) {
  const FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  EXPECT_FALSE(ledger_.try_port(ntohs(address.sin_port)));
  EXPECT_TRUE(ledger_.ports().empty());
}

TEST_F(LedgerTest, ListsPortsInOrder) {
  const auto high = ledger_.try_port(ephemeral_port());
  const auto low = ledger_.try_port(ephemeral_port());
  const auto middle = ledger_.try_port(ephemeral_port());
  ASSERT_TRUE(low && middle && high);
  const auto ports = other().ports();
  EXPECT_EQ(ports.size(), 3U);
  EXPECT_TRUE(std::is_sorted(ports.begin(), ports.end()));
}

TEST_F(LedgerTest, LongNamesAreCut) {
  const auto leases = ledger_.admit({{std::string(500, 'n'), 1, 1}}, soon());
  ASSERT_EQ(ledger_.admitted().size(), 1U);
  EXPECT_EQ(ledger_.admitted()[0].name, std::string(111, 'n'));
}

TEST_F(LedgerTest, RemovedFileIsMadeAnew) {
  const auto before = ledger_.admit({{"one", 1, 1}}, soon());
  std::filesystem::remove(folder_.path() / "ledger");
  EXPECT_EQ(ledger_.admit({{"two", 1, 1}}, soon()).size(), 1U);
}

TEST_F(LedgerTest, LinkInItsPlaceIsRefused) {
  std::filesystem::create_symlink("/etc/passwd", folder_.path() / "ledger");
  EXPECT_THROW((void)ledger_.admitted(), std::system_error);
}

TEST_F(LedgerTest, ManyThreadsNeverExceedTheLimits) {
  std::atomic<int> running = 0;
  std::atomic<int> most = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto lease = other().admit({{"vm", 400, 1}}, soon());
      const int now = ++running;
      for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
      }
      --running;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most, 2);
}

TEST(LedgerLimitsTest, VariablesSetThem) {
  ::setenv("VMTEST_MAX_MEMORY_MIB", "123", 1);
  ::setenv("VMTEST_MAX_VCPUS", "4", 1);
  const Ledger::Limits limits = Ledger::default_limits();
  ::unsetenv("VMTEST_MAX_MEMORY_MIB");
  ::unsetenv("VMTEST_MAX_VCPUS");
  EXPECT_EQ(limits.memory_mib, 123U);
  EXPECT_EQ(limits.vcpus, 4U);
}

TEST(LedgerLimitsTest, NonsenseInVariablesIsAnError) {
  ::setenv("VMTEST_MAX_VCPUS", "4x", 1);
  EXPECT_THROW((void)Ledger::default_limits(), Error);
  ::setenv("VMTEST_MAX_VCPUS", "0", 1);
  EXPECT_THROW((void)Ledger::default_limits(), Error);
  ::unsetenv("VMTEST_MAX_VCPUS");
}

TEST(LedgerLimitsTest, DefaultsComeFromTheHost) {
  EXPECT_GT(Ledger::default_limits().memory_mib, 0U);
  EXPECT_GE(Ledger::default_limits().vcpus, 4U);
}

}  // namespace
}  // namespace vmtest
