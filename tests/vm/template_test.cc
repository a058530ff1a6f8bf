// Templates: the first VM of its kind makes one, others continue from it, and a boot takes its place when it cannot be had.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "altered_qemu.h"
#include "failure.h"
#include "guest_clock.h"
#include "own_ledger.h"
#include "template_test.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/ledger.h"
#include "vmtest/host/process.h"
#include "vmtest/image_store.h"
#include "vmtest/template_store.h"
#include "vmtest/vm_test.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::failure_of;

TEST_F(TemplateTest, FirstMakesTheTemplateAndOthersUseIt) {
  const Vm first = Vm::boot();
  const Vm second = Vm::boot();
  EXPECT_TRUE(first.forked());
  EXPECT_TRUE(second.forked());
  EXPECT_EQ(templates().size(), 1U);
  EXPECT_EQ(first.timeline().events().front().detail, second.timeline().events().front().detail);
}

TEST_F(TemplateTest, ClockIsTheHosts) {
  (void)Vm::boot();
  std::this_thread::sleep_for(2s);  // makes the template old; nothing is waited for
  Vm vm = Vm::boot();
  const auto expect_the_hosts_time = [](Vm& guest, const char* what) {
    const testing::ClockReading clock = testing::read_clock(guest);
    // 50 ms, and what cannot be told from here.
    EXPECT_LE(std::abs(clock.ahead), 0.05 + clock.round_trip / 2) << what << "; round trip " << clock.round_trip << " s\n"
                                                                  << guest.timeline().text();
  };
  expect_the_hosts_time(vm, "a fork of a template");
  vm.snapshot("then");
  Vm child = vm.fork();
  expect_the_hosts_time(child, "a fork of a running VM");
  vm.restore("then");
  expect_the_hosts_time(vm, "a VM that was restored");
}

TEST_F(TemplateTest, AnotherSpecHasAnotherTemplate) {
  (void)Vm::boot();
  (void)Vm::boot({.files = {{"/etc/x", "1"}}});
  (void)Vm::boot({.files = {{"/etc/x", "2"}}});
  (void)Vm::boot({.data_disks = {{.size_mib = 16, .serial = "data"}}});
  EXPECT_EQ(templates().size(), 4U);
}

TEST_F(TemplateTest, ImageThatWasWrittenToHasAnotherTemplate) {
  const fs::path images = data_dir() / "images";
  const fs::path original = fs::canonical(images);
  fs::remove(images);
  fs::create_directory(images);
  for (const auto& entry : fs::directory_iterator(original)) {
    if (entry.path().filename().string().starts_with("tiny"))
      fs::copy(entry.path(), images / entry.path().filename(), fs::copy_options::recursive);
  }
  (void)Vm::boot();
  EXPECT_EQ(templates().size(), 1U);
  const fs::path disk = ImageStore().find("tiny", host_architecture())->image.disk;
  fs::last_write_time(disk, fs::last_write_time(disk) - 1s);
  (void)Vm::boot();
  EXPECT_EQ(templates().size(), 2U);
}

TEST_F(TemplateTest, NamesPortsAndHostNamesShareATemplate) {
  (void)Vm::boot({.name = "one", .hostname = "a"});
  (void)Vm::boot({.name = "two", .hostname = "b"});
  EXPECT_EQ(templates().size(), 1U);
}

TEST_F(TemplateTest, DamagedTemplateIsMadeAnew) {
  const fs::path report = folder_.path() / "report";
  const Variable reports("VMTEST_REPORT", report.string());
  // In its place, as a disk that forgets or a program that errs would.
  const auto change = [](const fs::path& file, std::string_view from, std::string_view to) {
    const std::size_t at = read_file(file).find(from);
    ASSERT_NE(at, std::string::npos) << file;
    const FileDescriptor fd = open_file(file, O_WRONLY);
    ASSERT_EQ(::pwrite(fd.get(), to.data(), to.size(), static_cast<off_t>(at)), static_cast<ssize_t>(to.size()));
  };
  (void)Vm::boot();
  const std::map<std::string, std::function<void(const fs::path&)>> damages = {
      {"memory has another size than when it was published",
       [](const fs::path& tmpl) { fs::resize_file(tmpl / "memory", 4096); }},
      {"state was changed after it was published", [&](const fs::path& tmpl) { change(tmpl / "state", "QEVM", "QEVN"); }},
      {"its manifest is not what was published",
       [&](const fs::path& tmpl) { change(tmpl / "manifest.json", "\"image\": \"tiny\"", "\"image\": \"tinz\""); }}};
  for (const auto& [why, damage] : damages) {
    fs::remove(report);
    damage(templates().at(0).folder);
    Vm vm = Vm::boot();
    EXPECT_TRUE(vm.forked());
    EXPECT_EQ(TemplateStore().verify(templates().at(0)), "");
    // The boot is counted with its reason, and the VM's own story has it.
    EXPECT_NE(read_file(report).find("in place of a damaged one: " + why), std::string::npos) << read_file(report);
    EXPECT_EQ(vm.timeline().events().front().what, "damaged template");
    EXPECT_NE(vm.timeline().events().front().detail.find(why), std::string::npos) << vm.timeline().events().front().detail;
  }
}

TEST_F(TemplateTest, DamagedTemplateStaysForThoseWhoseDisksStandOnIt) {
  Vm user = Vm::boot();
  user.run("echo mine > /root/file && sync");
  const fs::path folder = templates().at(0).folder;
  fs::last_write_time(folder / "seed.iso", fs::last_write_time(folder / "seed.iso") - 1s);
  EXPECT_NE(failure_of([] { (void)Vm::boot(); }).find("VMTEST_FORK=require"), std::string::npos);
  const Variable mode("VMTEST_FORK", "auto");
  const Vm other = Vm::boot();
  EXPECT_FALSE(other.forked());
  EXPECT_NE(other.boot_reason().find("stays while other VMs use it: seed.iso was changed"), std::string::npos)
      << other.boot_reason();
  user.power_off();
  user.start();
  EXPECT_EQ(user.run("cat /root/file").out, "mine\n");
}

TEST_F(TemplateTest, PreparationMayForkAndGoBack) {
  VmOptions options;
  options.preparation = Preparation{"forks", [](Vm& guest) {
                                      guest.run("echo prepared > /dev/shm/file");
                                      Vm child = guest.fork();
                                      EXPECT_EQ(child.run("cat /dev/shm/file").out, "prepared\n");
                                      guest.snapshot("prepared");
                                      guest.run("echo later > /dev/shm/file");
                                      EXPECT_EQ(child.run("cat /dev/shm/file").out, "prepared\n") << "a page written later";
                                      guest.restore("prepared");
                                      EXPECT_EQ(guest.run("cat /dev/shm/file").out, "prepared\n");
                                      return true;
                                    }};
  for (int i = 0; i < 2; ++i) {
    Vm vm = Vm::boot({}, options);
    EXPECT_TRUE(vm.forked());
    EXPECT_EQ(vm.run("cat /dev/shm/file").out, "prepared\n");
    vm.run("echo mine > /dev/shm/file");
  }
}

TEST_F(TemplateTest, WrongLimitIsNamedBeforeAnythingBoots) {
  const Variable mode("VMTEST_FORK", "auto");
  for (const char* name : {"VMTEST_TEMPLATES_MAX_MIB", "VMTEST_TEMPLATES_MAX_DAYS"}) {
    const Variable limit(name, "lots");
    const std::string said = failure_of([] { (void)Vm::boot(); });
    EXPECT_NE(said.find(std::string("\n  ") + name + "=lots is no whole number"), std::string::npos) << said;
  }
  EXPECT_TRUE(templates().empty());
  EXPECT_FALSE(fs::exists(data_dir() / "vms"));
}

TEST_F(TemplateTest, TemplateIsUsedThoughOldOnesCannotBeRemoved) {
  // What a builder left whose lock cannot be had.
  const TemplateStore store;
  (void)store.make_staging("left");
  fs::create_directory(store.folder() / "left.lock");
  write_file(store.folder() / "left.lock" / "used", "");  // or it would go as a template of long ago
  ::testing::internal::CaptureStderr();
  const Vm vm = Vm::boot();
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(vm.forked());
  EXPECT_NE(said.find("old templates in " + store.folder().string() + " could not be removed: "), std::string::npos) << said;
}

TEST_F(TemplateTest, BootsWhenForksAreOffOrForbidden) {
  {
    const Variable never("VMTEST_FORK", "never");
    VmOptions options;
    options.preparation = Preparation{"1", [](Vm& guest) { return guest.exec("echo prepared > /root/file").ok(); }};
    Vm vm = Vm::boot({}, options);
    EXPECT_FALSE(vm.forked());
    EXPECT_EQ(vm.boot_reason(), "VMTEST_FORK=never");
    EXPECT_EQ(vm.run("cat /root/file").out, "prepared\n");
  }
  const Vm secret = Vm::boot({.templates = Template::Never});
  EXPECT_FALSE(secret.forked());
  EXPECT_TRUE(templates().empty());
}

TEST_F(TemplateTest, FullDiskBootsInstead) {
  const fs::path images = fs::read_symlink(data_dir() / "images");
  const fs::path home = folder_.path() / "full";
  fs::create_directories(home);
  if (::mount("tmpfs", home.c_str(), "tmpfs", 0, "size=100m") != 0) GTEST_SKIP() << "mounting a small file system needs root";
  {
    const Variable here("VMTEST_HOME", home.string());
    const Variable mode("VMTEST_FORK", "auto");
    fs::create_directories(data_dir());
    fs::create_directory_symlink(images, data_dir() / "images");
    Vm vm = Vm::boot();
    EXPECT_FALSE(vm.forked());
    EXPECT_NE(vm.boot_reason().find("MiB left"), std::string::npos) << vm.boot_reason();
    EXPECT_TRUE(vm.exec("true").ok());
  }
  EXPECT_EQ(::umount2(home.c_str(), MNT_DETACH), 0);
}

TEST_F(TemplateTest, DiskThatFillsUpUnderTheGuestsMemoryBootsInstead) {
  const fs::path images = fs::read_symlink(data_dir() / "images");
  const fs::path home = folder_.path() / "full";
  fs::create_directories(home);
  if (::mount("tmpfs", home.c_str(), "tmpfs", 0, "size=700m") != 0) GTEST_SKIP() << "mounting a small file system needs root";
  {
    const Variable here("VMTEST_HOME", home.string());
    const Variable mode("VMTEST_FORK", "auto");
    fs::create_directories(data_dir());
    fs::create_directory_symlink(images, data_dir() / "images");
    const auto driver = std::make_shared<testing::AlteredQemu>();
    driver->after_start = [&](const VmHandle&, const MachineConfig& machine) {
      if (!machine.memory_file) return;
      // Somebody else takes all that is left, which the look beforehand cannot know.
      std::ofstream other(home / "other");
      const std::string block(1 << 20, 'x');
      while (other.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
      }
    };
    VmOptions options;
    options.driver = driver;
    Vm vm = Vm::boot({}, options);
    EXPECT_FALSE(vm.forked());
    EXPECT_NE(vm.boot_reason().find("ran full, where the guest's memory is kept"), std::string::npos) << vm.boot_reason();
    EXPECT_TRUE(vm.exec("true").ok());
  }
  EXPECT_EQ(::umount2(home.c_str(), MNT_DETACH), 0);
}

TEST_F(TemplateTest, DiskThatFillsUpWhilePublishingBootsInstead) {
  fs::create_directories(cache_dir());
  // There is room for the guest's memory where its VM runs, and none where its template goes.
  if (::mount("tmpfs", cache_dir().c_str(), "tmpfs", 0, "size=20m") != 0)
    GTEST_SKIP() << "mounting a small file system needs root";
  {
    const Variable mode("VMTEST_FORK", "auto");
    Vm vm = Vm::boot();
    EXPECT_FALSE(vm.forked());
    EXPECT_NE(vm.boot_reason().find("No space left on device"), std::string::npos) << vm.boot_reason();
    EXPECT_TRUE(vm.exec("true").ok());
    EXPECT_TRUE(templates().empty());
    for (const auto& entry : fs::recursive_directory_iterator(cache_dir()))
      EXPECT_TRUE(entry.is_directory() || entry.file_size() == 0) << entry.path();
  }
  EXPECT_EQ(::umount2(cache_dir().c_str(), MNT_DETACH), 0);
}

TEST_F(TemplateTest, ForksAreChargedWhatTheyTake) {
  (void)Vm::boot({.memory_mib = 1024});
  const auto charged = [](const Vm& vm) {
    for (const VmResources& other : Ledger().admitted()) {
      if (other.name == vm.name()) return other.memory_mib;
    }
    return 0U;
  };
  const auto written = [](const Vm& vm) {
    const std::string text = read_file("/proc/" + std::to_string(testing::hypervisor_of(vm.handle())) + "/smaps_rollup");
    return static_cast<unsigned>(std::stoul(text.substr(text.find("Private_Dirty:") + 14)) / 1024);
  };
  {
    Vm vm = Vm::boot({.memory_mib = 1024});
    const unsigned takes = written(vm);
    EXPECT_GE(charged(vm), takes);
    EXPECT_LE(charged(vm), 2 * takes + 64);
    vm.run("dd if=/dev/urandom of=/dev/shm/ballast bs=1M count=100 2> /dev/null");
  }
  // That is remembered: the next may do the same.
  const Vm vm = Vm::boot({.memory_mib = 1024});
  EXPECT_GE(charged(vm), written(vm) + 100);
  EXPECT_LT(charged(vm), 1024U);
}

TEST_F(TemplateTest, TwoThatWantTheSameTemplateMakeItOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> forked = 0;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] { forked += Vm::boot().forked() ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(forked, 2);
  EXPECT_EQ(templates().size(), 1U);
}

TEST_F(TemplateTest, TwoProcessesThatWantTheSameTemplateMakeItOnce) {
  const fs::path report = folder_.path() / "report";
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      const ToolResult done = exec_tool({VMTEST_CLI, "exec", "--image", "tiny", "--", "true"}, Deadline::after(120s),
                                        {{"VMTEST_REPORT", report.string()}});
      EXPECT_TRUE(done.status.ok()) << done.err;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(templates().size(), 1U);
  int booted = 0;
  int forked = 0;
  std::istringstream lines(read_file(report));
  for (std::string line; std::getline(lines, line);) {
    const auto vm = nlohmann::json::parse(line);
    if (vm.contains("phases")) ++(vm.at("forked") ? forked : booted);
  }
  EXPECT_EQ(booted, 1) << read_file(report);
  EXPECT_EQ(forked, 2) << read_file(report);
}

TEST_F(TemplateTest, WhoHasAVmDoesNotWaitForABuilderThatWaitsForThatVmsEnd) {
  if (!testing::take_own_ledger()) GTEST_SKIP() << "a ledger of its own needs root";
  std::optional<Vm> first = Vm::boot({.files = {{"/etc/x", "another template"}}});
  const auto all = Ledger::default_limits().memory_mib;
  std::thread waiter([all] { EXPECT_NO_THROW((void)Ledger().admit({{"waiter", all, 1}}, Deadline::after(300s))); });
  EXPECT_TRUE(testing::wait_until([] { return Ledger().somebody_waits(); }, Deadline::after(10s)));
  // The other process stands behind it with the VM that is to become the template of the second one here.
  const auto locks = [] {
    std::size_t count = 0;
    for (const auto& entry : fs::directory_iterator(TemplateStore().folder()))
      count += entry.path().extension() == ".lock" ? 1 : 0;
    return count;
  };
  auto other = std::async(std::launch::async, [] {
    return exec_tool({VMTEST_CLI, "exec", "--image", "tiny", "--", "true"}, Deadline::after(300s));
  });
  EXPECT_TRUE(testing::wait_until([&] { return locks() == 2; }, Deadline::after(20s)));
  auto second = std::async(std::launch::async, [] { return Vm::boot().exec("true").ok(); });
  EXPECT_EQ(second.wait_for(60s), std::future_status::ready);
  first.reset();  // which all others wait for
  EXPECT_TRUE(second.get());
  waiter.join();
  const ToolResult done = other.get();
  EXPECT_TRUE(done.status.ok()) << done.err;
  EXPECT_EQ(templates().size(), 2U) << "the other process wanted another template";
}

TEST_F(TemplateTest, PreparationIsDoneOnce) {
  int done = 0;
  const auto boot = [&](const std::string& version) {
    VmOptions options;
    options.preparation = Preparation{version, [&](Vm& guest) {
                                        ++done;
                                        guest.run("echo prepared > /root/file; nc -l -p 4444 -e cat > /dev/null 2>&1 &");
                                        return true;
                                      }};
    Vm vm = Vm::boot({}, options);
    return vm.run("cat /root/file; pidof nc > /dev/null && echo running").out;
  };
  EXPECT_EQ(boot("1"), "prepared\nrunning\n");
  EXPECT_EQ(boot("1"), "prepared\nrunning\n");
  EXPECT_EQ(done, 1);
  EXPECT_EQ(boot("2"), "prepared\nrunning\n");
  EXPECT_EQ(done, 2);
  // It stands without the template it was made from.
  for (const TemplateInfo& tmpl : templates()) {
    if (tmpl.prepared_version.empty()) {
      ASSERT_TRUE(TemplateStore().remove(tmpl.key));
    }
  }
  EXPECT_EQ(boot("2"), "prepared\nrunning\n");
  EXPECT_EQ(done, 2);
}

TEST_F(TemplateTest, FailedPreparationIsNamedAndLeavesEvidence) {
  VmOptions options;
  options.evidence_dir = folder_.path() / "evidence";
  options.preparation = Preparation{"1", [](Vm& guest) {
                                      guest.run("echo no such package >&2; exit 3");
                                      return true;
                                    }};
  try {
    (void)Vm::boot({.name = "unprepared"}, options);
    FAIL() << "it was prepared";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("could not be prepared"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("no such package"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(fs::exists(options.evidence_dir / "unprepared" / "console.log"));
  EXPECT_TRUE(fs::is_empty(data_dir() / "vms"));
}

/// Sees also what there is once the test has passed: until then the evidence of its VMs is kept.
class LeftoversTest : public TemplateTest {
 protected:
  static void SetUpTestSuite() { kept_.emplace(); }
  static void TearDownTestSuite() {
    std::string left;
    for (const auto& entry : fs::recursive_directory_iterator(kept_->path())) left += entry.path().string() + "\n";
    EXPECT_EQ(left, "");
    kept_.reset();
  }
  static inline std::optional<TemporaryDirectory> kept_;
};

TEST_F(LeftoversTest, HundredForksLeaveNothingBehind) {
  if (!testing::take_own_ledger()) GTEST_SKIP() << "a ledger of its own needs root";
  const std::string name = "hundred-" + std::to_string(::getpid());
  std::set<std::uint16_t> ports;
  const VmOptions options{.evidence_dir = kept_->path() / "evidence"};
  for (int i = 0; i < 100; ++i) ports.insert(Vm::boot({.name = name}, options).ssh_port());
  {
    Vm vm = Vm::boot({.name = name}, options);
    Vm child = vm.fork();
  }
  EXPECT_TRUE(fs::is_empty(data_dir() / "vms"));
  EXPECT_TRUE(fs::is_empty(runtime_dir()));
  EXPECT_TRUE(Ledger().admitted().empty());
  EXPECT_TRUE(Ledger().ports().empty());
  std::vector<std::string> folders;
  for (const auto& entry : fs::directory_iterator(TemplateStore().folder())) {
    if (entry.is_directory()) folders.push_back(entry.path().filename().string());
  }
  ASSERT_EQ(templates().size(), 1U);
  EXPECT_EQ(folders, std::vector<std::string>{templates().at(0).folder.filename().string()}) << "some were not finished";
  for (const auto& entry : fs::directory_iterator(templates().at(0).folder)) {
    EXPECT_EQ(entry.path().string().find(".qcow2."), std::string::npos) << entry.path() << " was not finished";
  }
  // A name has the same port each time, unless another VM holds that.
  EXPECT_LT(ports.size(), 20U);
  const auto processes = [&] {
    std::string found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      try {
        const std::string command = read_file(entry.path() / "cmdline");
        if (command.find(name) != std::string::npos) found += command + "\n";
      } catch (const std::exception&) {  // no process, or one that has just ended
      }
    }
    return found;
  };
  EXPECT_EQ(processes(), "");
}

}  // namespace
}  // namespace vmtest
