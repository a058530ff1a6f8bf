// Forks: each a guest of its own, whether it continues from a template or from a running VM; none knows of the others.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <future>
#include <optional>
#include <set>

#include "fork_test.h"
#include "guest_clock.h"
#include "image.h"
#include "own_ledger.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/text.h"
#include "vmtest/template_store.h"
#include "vmtest/vm_pool.h"
#include "vmtest/vm_test.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

std::string random_bytes(Vm& vm) { return vm.run("head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'").out; }

/// The random bytes (the cookie) that a guest's SSH server puts into its first key exchange message.
std::string key_exchange_cookie(const Vm& vm) {
  const FileDescriptor connection(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  EXPECT_EQ(::inet_pton(AF_INET, vm.ip().c_str(), &address.sin_addr), 1) << vm.ip();
  address.sin_port = htons(vm.ssh_port());
  EXPECT_EQ(::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  write_all(connection.get(), "SSH-2.0-vmtest\r\n");
  std::string data;
  const Deadline deadline = Deadline::after(20s);
  // Version line, then length, padding length, message number, and 16 bytes of cookie.
  const auto cookie_at = [&] { return data.find('\n') == std::string::npos ? std::string::npos : data.find('\n') + 7; };
  while ((cookie_at() == std::string::npos || data.size() < cookie_at() + 16) && wait_readable(connection.get(), deadline)) {
    char buffer[4096];
    const ssize_t count = ::read(connection.get(), buffer, sizeof buffer);
    if (count <= 0) break;
    data.append(buffer, static_cast<std::size_t>(count));
  }
  EXPECT_GE(data.size(), cookie_at() + 16);
  return data.substr(cookie_at(), 16);
}

TEST_F(ForkTest, WhatOneWritesNoOtherSees) {
  Vm one = Vm::boot();
  Vm two = Vm::boot();
  one.run("echo one > /root/file && echo one > /dev/shm/file && sync");
  // Not what the guest remembers of its disk, but what is on it.
  const auto sees_it = [](Vm& vm) {
    return vm.exec("echo 3 > /proc/sys/vm/drop_caches; cat /root/file || cat /dev/shm/file").ok();
  };
  EXPECT_TRUE(sees_it(one));
  EXPECT_FALSE(sees_it(two));
  Vm three = Vm::boot();
  EXPECT_FALSE(sees_it(three));
  const std::string key = one.timeline().events().front().detail;
  const auto held = TemplateStore().find(key);
  ASSERT_TRUE(held) << key;
  EXPECT_EQ(TemplateStore().verify(held->tmpl), "");
}

TEST_F(ForkTest, EachIsAMachineOfItsOwn) {
  Vm one = Vm::boot({.name = "fork-one"});
  Vm two = Vm::boot({.name = "fork-two"});
  EXPECT_EQ(one.run("hostname").out, "fork-one\n");
  EXPECT_EQ(two.run("hostname").out, "fork-two\n");
  EXPECT_EQ(two.run("cat /etc/hostname").out, "fork-two\n");
  EXPECT_NE(one.run("cat /etc/machine-id").out, two.run("cat /etc/machine-id").out);
  EXPECT_NE(one.ssh_port(), two.ssh_port());
}

TEST_F(ForkTest, TimelineTellsWhereItsTimeWent) {
  Vm vm = Vm::boot();
  std::vector<std::string> steps;
  for (const TimelineEvent& event : vm.timeline().events()) {
    if (event.what != "kernel") steps.push_back(event.what);  // which may come late
  }
  const std::vector<std::string> expected = {"template",     "admission",      "clone",  "process", "monitor",
                                             "hypervisor",   "refresh",        "marker", "tcp",     "banner",
                                             "key exchange", "authentication", "ssh"};
  EXPECT_EQ(steps, expected) << vm.timeline().text();
  const BootPhases phases = vm.boot_phases();
  EXPECT_GT(phases.restore, 0);
  EXPECT_NEAR(phases.process + phases.monitor + phases.restore, phases.hypervisor, 1e-5);
}

TEST_F(ForkTest, RandomNumbersDiffer) {
  std::set<std::string> kernels;
  std::set<std::string> servers;
  for (int i = 0; i < 4; ++i) {
    Vm vm = Vm::boot();
    servers.insert(key_exchange_cookie(vm));
    kernels.insert(random_bytes(vm));
  }
  EXPECT_EQ(kernels.size(), 4U);
  EXPECT_EQ(servers.size(), 4U);
}

TEST_F(ForkTest, RandomNumbersDifferWithoutAGenerationIdToo) {
  // The kernel would reseed by itself if it were told.
  const VmSpec spec{.extra_command_line = "initcall_blacklist=vmgenid_driver_init"};
  std::set<std::string> kernels;
  // It does, too, when it finds its seed old, as soon after a boot as a second or two: not all of them would draw the same.
  for (int i = 0; i < 8; ++i) {
    Vm vm = Vm::boot(spec);
    EXPECT_TRUE(vm.forked());
    EXPECT_FALSE(vm.exec("test -e /sys/bus/acpi/drivers/vmgenid").ok()) << "it has the driver all the same";
    kernels.insert(random_bytes(vm));
  }
  EXPECT_EQ(kernels.size(), 8U);
}

TEST_F(ForkTest, HostKeyIsItsOwnOnRequest) {
  const std::string show = "dropbearkey -y -f /etc/dropbear/dropbear_ed25519_host_key | awk '/^ssh-ed25519/ {print $2}'";
  // Each login checks the key that its VM is known by.
  Vm shared = Vm::boot();
  Vm also_shared = Vm::boot();
  Vm own = Vm::boot({.fresh_host_key = true});
  const std::string key = shared.run(show).out;
  EXPECT_EQ(also_shared.run(show).out, key);
  EXPECT_NE(own.run(show).out, key);
  Vm child = own.fork();
  EXPECT_NE(child.run(show).out, own.run(show).out);
  own.reboot();
  EXPECT_NE(own.run(show).out, key);
}

TEST_F(ForkTest, NetworkWorks) {
  Vm vm = Vm::boot();
  const FileDescriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  socklen_t size = sizeof address;
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  vm.run("nc 10.0.2.2 " + std::to_string(ntohs(address.sin_port)) + " < /dev/null > /dev/null & sleep 1");
  EXPECT_TRUE(wait_readable(listener.get(), Deadline::after(20s)));
  // The network's DHCP server answers a fork as it answered the guest that was booted.
  const std::string lease = vm.run("udhcpc -f -n -q -i eth0 -s /bin/true 2>&1").out;
  EXPECT_NE(lease.find("lease of 10.0.2.15 obtained"), std::string::npos) << lease;
}

TEST_F(ForkTest, DhcpClientOfTheParentRenewsItsLeaseInTheFork) {
  Vm vm = Vm::boot();
  const auto leases = [](Vm& guest) { return guest.exec("grep -c 'lease of 10.0.2.15 obtained' /tmp/dhcp").out; };
  vm.run("udhcpc -f -i eth0 -s /bin/true > /tmp/dhcp 2>&1 < /dev/null & echo $! > /tmp/pid");
  vm.wait_until([&] { return leases(vm) == "1\n"; }, 20s, "the first lease");
  Vm child = vm.fork();
  child.run("kill -USR1 $(cat /tmp/pid)");
  child.wait_until([&] { return leases(child) == "2\n"; }, 20s, "the lease to be renewed");
  EXPECT_NE(child.run("cat /tmp/dhcp").out.find("sending renew"), std::string::npos);
  EXPECT_EQ(leases(vm), "1\n");
}

TEST_F(ForkTest, GuestsOnTapsHaveAddressesOfTheirOwn) {
  try {
    std::vector<Vm> vms;
    for (int i = 0; i < 2; ++i) vms.push_back(Vm::boot({.network = Network::Tap}));
    vms.push_back(vms[1].fork());
    // A fork comes back as itself even when its power fails at once.
    vms[2].power_off();
    vms[2].start();
    std::set<std::string> addresses;
    for (Vm& vm : vms) {
      addresses.insert(vm.ip());
      EXPECT_NE(vm.run("ip -4 addr show dev eth0").out.find("inet " + vm.ip() + "/"), std::string::npos) << vm.ip();
      EXPECT_NE(vm.run("ip route").out.find("default via " + vm.handle().gateway), std::string::npos) << vm.run("ip route").out;
    }
    EXPECT_EQ(addresses.size(), 3U);
  } catch (const Unsupported& reason) {
    GTEST_SKIP() << reason.what();
  }
}

TEST_F(ForkTest, RebootAndRestartWork) {
  Vm vm = Vm::boot({.name = "rebooting"});
  vm.run("echo kept > /root/file && sync");
  vm.reboot();
  EXPECT_EQ(vm.run("cat /root/file && hostname").out, "kept\nrebooting\n");
  vm.shutdown();
  vm.start();
  EXPECT_EQ(vm.run("cat /root/file").out, "kept\n");
}

TEST_F(ForkTest, DataDisksComeWithTheTemplate) {
  const VmSpec spec{.data_disks = {{.size_mib = 16}}, .setup_commands = {"echo from the template | dd of=/dev/vdc conv=notrunc"}};
  Vm one = Vm::boot(spec);
  one.run("echo mine | dd of=/dev/vdc conv=notrunc && sync");
  Vm two = Vm::boot(spec);
  EXPECT_EQ(two.run("head -c 17 /dev/vdc").out, "from the template");
}

TEST_F(ForkTest, WrongModeIsNamed) {
  const Variable mode("VMTEST_FORK", "perhaps");
  EXPECT_THROW((void)Vm::boot(), Error);
}

TEST_F(ForkTest, ForkOfARunningVmContinuesItsProcesses) {
  Vm parent = Vm::boot();
  parent.run("(i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.05; done) > /dev/null 2>&1 &");
  parent.run("echo of the parent > /root/file");
  Vm child = parent.fork();
  parent.run("echo later > /root/file");
  child.run("echo of the child > /root/own && sync");
  EXPECT_EQ(child.run("cat /root/file").out, "of the parent\n");
  EXPECT_EQ(parent.run("cat /root/file").out, "later\n");
  EXPECT_FALSE(parent.exec("test -e /root/own").ok());
  const std::string count = child.run("cat /dev/shm/count").out;
  child.wait_until([&] { return child.run("cat /dev/shm/count").out != count; }, 20s, "the child's counter to go on");
  const std::string parents = parent.run("cat /dev/shm/count").out;
  parent.wait_until([&] { return parent.run("cat /dev/shm/count").out != parents; }, 20s, "the parent's counter to go on");
}

TEST_F(ForkTest, BootedVmForksToo) {
  const Variable mode("VMTEST_FORK", "never");
  Vm parent = Vm::boot();
  EXPECT_FALSE(parent.forked());
  parent.run("echo kept > /dev/shm/file");
  Vm child = parent.fork();
  EXPECT_EQ(child.run("cat /dev/shm/file").out, "kept\n");
  parent.snapshot("kept");
  parent.run("rm /dev/shm/file");
  parent.restore("kept");
  EXPECT_EQ(parent.run("cat /dev/shm/file").out, "kept\n");
}

TEST_F(ForkTest, ForksOfForksOutliveTheirParents) {
  // Of a test whose name is as long as a VM's can be.
  std::optional<Vm> vm = Vm::boot({.name = std::string(57, 'n') + "-" + random_hex(6)});
  for (int depth = 1; depth <= 3; ++depth) {
    vm->run("echo " + std::to_string(depth) + " >> /root/depths && sync");
    Vm child = vm->fork();
    vm = std::move(child);  // the parent ends here
  }
  EXPECT_EQ(vm->run("cat /root/depths").out, "1\n2\n3\n");
  vm->reboot();
  EXPECT_EQ(vm->run("cat /root/depths").out, "1\n2\n3\n");
}

TEST_F(ForkTest, TwentyAtOnceEachDoTheirOwnWork) {
  const Variable limit("VMTEST_MAX_VCPUS", "40");
  std::vector<std::future<Vm>> starts;
  for (int i = 0; i < 20; ++i) {
    starts.push_back(std::async(std::launch::async, [i] {
      Vm vm = Vm::boot();
      vm.run("echo " + std::to_string(i) + " > /root/number");
      return vm;
    }));
  }
  std::vector<Vm> vms;
  for (std::future<Vm>& start : starts) vms.push_back(start.get());
  std::vector<std::future<std::string>> work;
  for (Vm& vm : vms) {
    work.push_back(std::async(std::launch::async, [&vm] { return vm.run("cat /root/number").out + random_bytes(vm); }));
  }
  std::set<std::string> random;
  for (int i = 0; i < 20; ++i) {
    const std::string said = work[static_cast<std::size_t>(i)].get();
    const std::string number = std::to_string(i) + "\n";
    EXPECT_TRUE(said.starts_with(number)) << said;
    random.insert(said.substr(number.size()));
  }
  EXPECT_EQ(random.size(), 20U);
}

TEST_F(ForkTest, PoolHandsOverReadyVmsAndDropsTheRest) {
  std::set<std::string> names;
  {
    VmPool pool({.name = "pool-" + std::to_string(::getpid())}, 2);
    for (int i = 0; i < 3; ++i) {
      Vm vm = pool.take();
      EXPECT_TRUE(vm.forked());
      EXPECT_TRUE(vm.exec("true").ok());
      names.insert(vm.name());
    }
    ASSERT_TRUE(testing::wait_until([&] { return pool.ready() > 0; }, Deadline::after(60s)));
  }
  EXPECT_EQ(names.size(), 3U);
  for (const auto& entry : fs::directory_iterator(data_dir() / "vms")) {
    EXPECT_FALSE(entry.path().filename().string().starts_with("pool-" + std::to_string(::getpid()))) << entry.path();
  }
}

TEST_F(ForkTest, PoolGivesItsStockToWhoWaits) {
  if (!testing::take_own_ledger()) GTEST_SKIP() << "a ledger of its own needs root";
  const Variable limit("VMTEST_MAX_VCPUS", "2");
  VmPool pool({}, 2);
  ASSERT_TRUE(testing::wait_until([&] { return pool.ready() == 2; }, Deadline::after(120s)));
  Vm vm = Vm::boot({}, {.admission_time = 60s});
  EXPECT_TRUE(vm.exec("true").ok());
  EXPECT_LE(pool.ready(), 1U);
}

TEST_F(ForkTest, PoolsStockWaitsBehindOthersUntilItIsWanted) {
  if (!testing::take_own_ledger()) GTEST_SKIP() << "a ledger of its own needs root";
  const Variable limit("VMTEST_MAX_VCPUS", "1");
  std::optional<Vm> first = Vm::boot();
  VmPool pool({}, 1);
  ASSERT_TRUE(testing::wait_until([] { return Ledger().somebody_waits(); }, Deadline::after(30s)));
  EXPECT_FALSE(Ledger().somebody_is_next()) << "others would give their VMs up for one that nobody waits for";
  auto taken = std::async(std::launch::async, [&] { return pool.take(); });
  EXPECT_TRUE(testing::wait_until([] { return Ledger().somebody_is_next(); }, Deadline::after(30s)));
  first.reset();
  EXPECT_TRUE(taken.get().exec("true").ok());
}

TEST_F(ForkTest, ForkIsChargedInFullOnceItSharesNothing) {
  // A size of its own: what forks of other tests took counts for theirs.
  constexpr unsigned kMemoryMib = 320;
  (void)Vm::boot({.memory_mib = kMemoryMib});
  Vm vm = Vm::boot({.memory_mib = kMemoryMib});
  const auto charged = [&] {
    unsigned mib = 0;
    for (const VmResources& other : Ledger().admitted()) mib += other.name == vm.name() ? other.memory_mib : 0;
    return mib;
  };
  EXPECT_LT(charged(), kMemoryMib);
  vm.power_off();
  vm.start();
  EXPECT_EQ(charged(), kMemoryMib);
  vm.power_off();
  vm.start();
  EXPECT_EQ(charged(), kMemoryMib);
}

TEST_F(ForkTest, SecondVmIsNotBehindThoseWhoWaitForTheFirst) {
  if (!testing::take_own_ledger()) GTEST_SKIP() << "a ledger of its own needs root";
  std::optional<Vm> first = Vm::boot();
  const auto all = Ledger::default_limits().memory_mib;
  std::thread waiter([all] { EXPECT_NO_THROW((void)Ledger().admit({{"waiter", all, 1}}, Deadline::after(60s))); });
  EXPECT_TRUE(testing::wait_until([] { return Ledger().somebody_waits(); }, Deadline::after(10s)));
  EXPECT_NO_THROW((void)Vm::boot({}, {.admission_time = 15s})) << "it waits for who waits for the first to end";
  first.reset();
  waiter.join();
}

TEST_F(ForkTest, PoolSaysWhyItHasNoVm) {
  VmPool pool({.image = "no-such-image"}, 1);
  EXPECT_THROW((void)pool.take(), Unsupported);
  EXPECT_THROW((void)pool.take(), Unsupported);
}

TEST_F(ForkTest, SeveralChildrenOfOneMoment) {
  Vm parent = Vm::boot();
  parent.run("echo same > /dev/shm/file");
  std::vector<Vm> children = parent.fork_many(3);
  std::set<std::string> names;
  std::set<std::string> random;
  for (Vm& child : children) {
    EXPECT_EQ(child.run("cat /dev/shm/file").out, "same\n");
    names.insert(child.run("hostname").out);
    random.insert(random_bytes(child));
  }
  EXPECT_EQ(names.size(), 3U);
  EXPECT_EQ(random.size(), 3U);
}

TEST_F(ForkTest, SnapshotCanBeRestoredAgainAndAgain) {
  Vm vm = Vm::boot();
  vm.run("echo before > /root/file && echo before > /dev/shm/file");
  vm.snapshot("clean");
  // Layers of its disk in its folder: what only a moment had that is gone must not be kept.
  const auto layers = [&] {
    const fs::directory_iterator files(vm.handle().work_dir);
    return std::count_if(begin(files), end(files), [](const auto& entry) { return entry.path().extension() == ".qcow2"; });
  };
  for (int i = 0; i < 2; ++i) {
    vm.snapshot("other");
    vm.run("echo after > /root/file && rm /dev/shm/file && sync");
    vm.restore("clean");
    EXPECT_EQ(vm.run("cat /root/file /dev/shm/file").out, "before\nbefore\n");
    EXPECT_EQ(layers(), 3) << "that of \"clean\", that of \"other\", and its own";
  }
  EXPECT_THROW(vm.restore("dirty"), Error);
}

TEST_F(ForkTest, RestoredVmIsTheMachineThatItWas) {
  Vm vm = Vm::boot({.fresh_host_key = true});
  vm.run("hostname renamed && echo renamed > /etc/hostname");
  const std::string show = "hostname; cat /etc/hostname /etc/machine-id /etc/hosts; md5sum /etc/dropbear/*";
  const std::string before = vm.run(show).out;
  vm.snapshot("then");
  const std::string random = random_bytes(vm);
  vm.restore("then");
  EXPECT_EQ(vm.run(show).out, before);
  EXPECT_NE(random_bytes(vm), random);
}

TEST_F(ForkTest, VmThatCannotBeForkedSaysWhy) {
  Vm vm = Vm::boot({.vnc = true, .templates = Template::Never});
  try {
    (void)vm.fork();
    FAIL() << "a display was forked";
  } catch (const Unsupported& error) {
    EXPECT_NE(std::string(error.what()).find("a display is not forked"), std::string::npos) << error.what();
  }
  EXPECT_EQ(vm.run("echo fine").out, "fine\n");
}

TEST_F(ForkTest, DebianIsAHealthyMachineOfItsOwn) {
  testing::require_image("debian-12");
  if (IsSkipped()) return;
  // On a TAP the addresses must differ too; that needs privileges.
  VmSpec spec{.image = "debian-12", .vcpus = 2, .memory_mib = 768, .network = Network::Tap, .user = "root"};
  const auto boot = [&](const std::string& name) {
    spec.name = name;
    return Vm::boot(spec);
  };
  Vm one = [&] {
    try {
      return boot("deb-one");
    } catch (const Unsupported&) {
      spec.network = Network::User;
      return boot("deb-one");
    }
  }();
  Vm two = boot("deb-two");
  EXPECT_TRUE(two.forked());
  EXPECT_EQ(two.run("hostname; hostname -f; cat /etc/hostname").out, "deb-two\ndeb-two\ndeb-two\n");
  EXPECT_NE(one.run("cat /etc/machine-id").out, two.run("cat /etc/machine-id").out);
  EXPECT_NE(random_bytes(one), random_bytes(two));
  EXPECT_NE(key_exchange_cookie(one), key_exchange_cookie(two));
  GuestCommand running{"systemctl is-system-running --wait"};
  running.timeout = 180s;
  EXPECT_EQ(two.exec(running).out, "running\n") << two.exec("systemctl --failed --no-legend");
  const testing::ClockReading clock = testing::read_clock(two);
  EXPECT_LE(std::abs(clock.ahead), 0.05 + clock.round_trip / 2) << "round trip " << clock.round_trip << " s";
  const std::string show_key = "cat /etc/ssh/ssh_host_ed25519_key.pub";
  spec.fresh_host_key = true;
  Vm other_key = boot("deb-key");
  EXPECT_NE(other_key.run(show_key).out, two.run(show_key).out);
  Vm child = two.fork();
  EXPECT_EQ(child.exec(running).out, "running\n") << child.exec("systemctl --failed --no-legend");
  if (spec.network == Network::Tap) {
    EXPECT_NE(one.ip(), two.ip());
    EXPECT_NE(two.ip(), child.ip());
    EXPECT_NE(child.run("ip -4 addr").out.find("inet " + child.ip() + "/"), std::string::npos);
    child.reboot();
    EXPECT_NE(child.run("ip -4 addr").out.find("inet " + child.ip() + "/"), std::string::npos);
  }
}

}  // namespace
}  // namespace vmtest
