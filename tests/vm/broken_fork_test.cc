// Templates and forks that come to harm: hypervisors that end or stand still in the middle, files that are not what they were.

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "altered_qemu.h"
#include "failure.h"
#include "template_test.h"
#include "vmtest/vm_test.h"
#include "wait.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::failure_of;
using testing::hypervisor_of;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Over the driver that they alter; their evidence goes to a folder of their own.
template <typename Base>
class AlteredTest : public Base {
 protected:
  /// Folders of VMs whose names begin like that.
  [[nodiscard]] static std::vector<std::string> vms(const std::string& begin) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(data_dir() / "vms")) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(begin)) names.push_back(name);
    }
    return names;
  }

  TemporaryDirectory evidence_;
  std::shared_ptr<testing::AlteredQemu> driver_ = std::make_shared<testing::AlteredQemu>();
  VmOptions options_{.evidence_dir = evidence_.path(), .driver = driver_};
};

/// Of a running VM, which continues from the user's template.
class BrokenForkTest : public AlteredTest<ForkTest> {
 protected:
  [[nodiscard]] static std::vector<fs::path> state_files(const Vm& vm) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(vm.handle().work_dir)) {
      if (entry.path().extension() == ".state") files.push_back(entry.path());
    }
    return files;
  }
  std::string name_ = "broken-" + std::to_string(::getpid());
};

TEST_F(BrokenForkTest, HypervisorKilledInTheMiddleIsNamed) {
  driver_->instead_of_checkpoint = [](TemplateFacet& qemu, const VmHandle& vm, const fs::path& state_file,
                                      const std::map<std::string, fs::path>& overlays, const Deadline& deadline) {
    const pid_t hypervisor = hypervisor_of(vm);
    // While it writes; its end is waited for.
    const auto killer = std::async(std::launch::async, [&] {
      (void)testing::wait_until([&] { return fs::exists(state_file); }, Deadline::after(20s));
      ::kill(hypervisor, SIGKILL);
    });
    return qemu.checkpoint(vm, state_file, overlays, deadline);
  };
  Vm vm = Vm::boot({.name = name_}, options_);
  vm.run("dd if=/dev/urandom of=/dev/shm/ballast bs=1M count=64 2> /dev/null");  // takes its time to be written
  const std::string text = failure_of([&] { (void)vm.fork(); });
  EXPECT_TRUE(contains(text, "QEMU ended with signal 9")) << text;
  EXPECT_TRUE(contains(text, "cannot checkpoint VM \"" + name_ + "\"")) << text;
  EXPECT_EQ(vm.state(), VmState::Failed);
  EXPECT_TRUE(state_files(vm).empty());
  EXPECT_EQ(vms(name_), std::vector<std::string>{name_});
}

TEST_F(BrokenForkTest, StoppedHypervisorOfAChildIsReportedInTime) {
  (void)Vm::boot({}, options_);  // makes the template if there is none, which may take longer
  driver_->after_start = [this](const VmHandle& vm, const MachineConfig&) {
    if (vm.name == name_ + "-child") ::kill(hypervisor_of(vm), SIGSTOP);
  };
  Vm vm = Vm::boot({.name = name_, .boot_timeout = 1s}, options_);
  const auto began = std::chrono::steady_clock::now();
  const std::string text = failure_of([&] { (void)vm.fork({.name = name_ + "-child"}); });
  EXPECT_TRUE(contains(text, "no answer: the guest does not run, or has no agent")) << text;
  EXPECT_FALSE(contains(text, "the guest hung")) << text;
  EXPECT_LT(std::chrono::steady_clock::now() - began, 16s) << "six seconds under emulation";
  const fs::path evidence = evidence_.path() / (name_ + "-child");
  EXPECT_TRUE(contains(text, "evidence in " + evidence.string())) << text;
  EXPECT_TRUE(fs::exists(evidence / "command_line.txt"));
  EXPECT_EQ(vms(name_), std::vector<std::string>{name_});
  EXPECT_TRUE(state_files(vm).empty());
  EXPECT_EQ(vm.run("echo fine").out, "fine\n");
}

TEST_F(BrokenForkTest, GuestThatHungWhenItWasForkedIsNamed) {
  (void)Vm::boot({}, options_);           // makes the template if there is none, which may take longer
  std::unique_ptr<GuestProcess> hanging;  // outlives the VM, whose guest could not kill it
  Vm vm = Vm::boot({.name = name_, .boot_timeout = 1s}, options_);
  // Whatever runs in it is frozen, its agent too.
  hanging = vm.spawn(
      "mkdir /tmp/all && mount -t cgroup2 none /tmp/all && mkdir /tmp/all/hung && cd /tmp/all || exit; "
      "for process in $(cat cgroup.procs); do echo $process > hung/cgroup.procs; done 2> /dev/null; "
      "echo 1 > hung/cgroup.freeze");
  const auto hangs = [&] {
    GuestCommand command{"true"};
    command.timeout = 500ms;
    try {
      return !vm.exec(command).ok();
    } catch (const Timeout&) {
      return true;
    }
  };
  ASSERT_TRUE(testing::wait_until(hangs, Deadline::after(30s)));
  const auto began = std::chrono::steady_clock::now();
  const std::string text = failure_of([&] { (void)vm.fork({.name = name_ + "-child"}); });
  EXPECT_TRUE(contains(text, "the guest hung when it was forked, for VM \"" + name_ + "\" does not answer either")) << text;
  EXPECT_TRUE(contains(text, "fork it while it answers")) << text;
  EXPECT_LT(std::chrono::steady_clock::now() - began, 16s) << "six seconds for the child under emulation, three for the parent";
  EXPECT_TRUE(contains(text, "evidence in " + (evidence_.path() / (name_ + "-child")).string())) << text;
  EXPECT_EQ(vms(name_), std::vector<std::string>{name_});
  EXPECT_TRUE(state_files(vm).empty());
}

/// Of templates.
class BrokenTemplateTest : public AlteredTest<TemplateTest> {
 protected:
  /// Folders of templates, whole or not.
  [[nodiscard]] static std::vector<std::string> template_folders() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(TemplateStore().folder())) {
      if (entry.is_directory()) names.push_back(entry.path().filename().string());
    }
    return names;
  }
};

TEST_F(BrokenTemplateTest, HypervisorKilledBeforeItIsFrozenLeavesNoTemplate) {
  const Variable mode("VMTEST_FORK", "auto");
  driver_->before_save = [](const VmHandle& vm) { ::kill(hypervisor_of(vm), SIGKILL); };
  Vm vm = Vm::boot({.name = "booted"}, options_);
  EXPECT_FALSE(vm.forked());
  EXPECT_TRUE(contains(vm.boot_reason(), "its hypervisor ended before it was frozen: QEMU ended with signal 9"))
      << vm.boot_reason();
  EXPECT_TRUE(vm.exec("true").ok());
  EXPECT_TRUE(template_folders().empty());
  EXPECT_EQ(vms(""), std::vector<std::string>{"booted"});
}

TEST_F(BrokenTemplateTest, GuestThatStandsStillIsReportedInTimeAndItsTemplateRemoved) {
  (void)Vm::boot();
  driver_->after_start = [this](const VmHandle& vm, const MachineConfig& machine) {
    if (!machine.restore_from.empty()) driver_->suspend(vm);
  };
  const auto began = std::chrono::steady_clock::now();
  const std::string text = failure_of([&] { (void)Vm::boot({.name = "still", .boot_timeout = 1s}, options_); });
  EXPECT_TRUE(contains(text, "no answer: the guest does not run, or has no agent")) << text;
  EXPECT_TRUE(contains(text, "which is removed")) << text;
  EXPECT_LT(std::chrono::steady_clock::now() - began, 16s) << "six seconds under emulation";
  const fs::path evidence = evidence_.path() / "still.fork";
  EXPECT_TRUE(contains(text, "evidence in " + evidence.string())) << text;
  EXPECT_TRUE(fs::exists(evidence / "command_line.txt"));
  EXPECT_TRUE(template_folders().empty());
  EXPECT_TRUE(vms("").empty());
}

TEST_F(BrokenTemplateTest, TemplateThatOthersContinuedFromStays) {
  const Vm good = Vm::boot();
  driver_->after_start = [this](const VmHandle& vm, const MachineConfig& machine) {
    if (!machine.restore_from.empty()) driver_->suspend(vm);
  };
  const std::string text = failure_of([&] { (void)Vm::boot({.name = "still", .boot_timeout = 1s}, options_); });
  EXPECT_TRUE(contains(text, "which stays, since other VMs continued from it and use it")) << text;
  EXPECT_EQ(templates().size(), 1U);
  EXPECT_TRUE(Vm::boot().forked());
  EXPECT_EQ(templates().size(), 1U);
}

TEST_F(BrokenTemplateTest, DiskOfAnotherTemplateIsNotUsed) {
  const VmSpec one{.files = {{"/etc/which", "one"}}};
  const VmSpec two{.files = {{"/etc/which", "two"}}};
  (void)Vm::boot(one);
  const fs::path first = templates().at(0).folder / "root.qcow2";
  (void)Vm::boot(two);
  const fs::path second = templates().at(0).folder / "root.qcow2";
  ASSERT_NE(first, second);
  fs::rename(first, folder_.path() / "disk");
  fs::rename(second, first);
  fs::rename(folder_.path() / "disk", second);
  ::testing::internal::CaptureStderr();
  Vm vm = Vm::boot(one);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(contains(said, "damaged and will be made anew: root.qcow2 ")) << said;
  EXPECT_TRUE(vm.forked());
  EXPECT_EQ(vm.run("cat /etc/which; echo 3 > /proc/sys/vm/drop_caches; cat /etc/which").out, "oneone");
  EXPECT_EQ(TemplateStore().verify(templates().at(0)), "");
}

TEST_F(TemplateTest, TemplateThatDoesNotContinueIsRemoved) {
  (void)Vm::boot();
  spoil(templates().at(0));
  try {
    (void)Vm::boot();
    FAIL() << "it continued";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("VMTEST_FORK=require"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("which is removed"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(templates().empty());
}

TEST_F(TemplateTest, BootsWhereNoVmContinues) {
  const Variable mode("VMTEST_FORK", "auto");
  (void)Vm::boot();
  spoil(templates().at(0));
  {
    Vm vm = Vm::boot();
    EXPECT_FALSE(vm.forked());
    EXPECT_NE(vm.boot_reason().find("which is removed"), std::string::npos) << vm.boot_reason();
    EXPECT_TRUE(vm.exec("true").ok());
  }
  EXPECT_TRUE(templates().empty());
  (void)Vm::boot();
  spoil(templates().at(0));
  // The same where the template is what another one is to be prepared from.
  VmOptions options;
  options.preparation = Preparation{"one", [](Vm& guest) { return guest.exec("echo prepared > /root/file").ok(); }};
  {
    Vm vm = Vm::boot({}, options);
    EXPECT_FALSE(vm.forked());
    EXPECT_EQ(vm.run("cat /root/file").out, "prepared\n");
  }
  EXPECT_TRUE(templates().empty());
  Vm vm = Vm::boot({}, options);
  EXPECT_TRUE(vm.forked()) << vm.boot_reason();
  EXPECT_EQ(vm.run("cat /root/file").out, "prepared\n");
}

TEST_F(TemplateTest, BootsWhereTheTemplateThatDoesNotContinueStays) {
  if (::unshare(CLONE_NEWNS) != 0) GTEST_SKIP() << "a mount namespace needs root";
  ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  const Variable mode("VMTEST_FORK", "auto");
  (void)Vm::boot();
  const TemplateInfo tmpl = templates().at(0);
  spoil(tmpl);
  // A mount point is not renamed.
  ASSERT_EQ(::mount(tmpl.folder.c_str(), tmpl.folder.c_str(), nullptr, MS_BIND, nullptr), 0);
  {
    Vm vm = Vm::boot();
    EXPECT_FALSE(vm.forked());
    EXPECT_NE(vm.boot_reason().find("which could not be removed"), std::string::npos) << vm.boot_reason();
    EXPECT_TRUE(vm.exec("true").ok());
  }
  EXPECT_EQ(::umount(tmpl.folder.c_str()), 0);
}

}  // namespace
}  // namespace vmtest
