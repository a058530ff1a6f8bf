#include "accelerator.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cstdlib>

#include "kvm_probe.h"
#include "qemu_command_line.h"
#include "variable.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest {
namespace {

constexpr ExitStatus kPassed{kKvmProbePassed, 0};

TEST(EffectiveWishTest, EnvironmentSettlesAuto) {
  EXPECT_EQ(effective_wish(Accelerator::Auto, "tcg"), Accelerator::Tcg);
  EXPECT_EQ(effective_wish(Accelerator::Auto, "kvm"), Accelerator::Kvm);
  EXPECT_EQ(effective_wish(Accelerator::Auto, "auto"), Accelerator::Auto);
  EXPECT_EQ(effective_wish(Accelerator::Auto, nullptr), Accelerator::Auto);
  EXPECT_EQ(effective_wish(Accelerator::Auto, ""), Accelerator::Auto);
}

TEST(EffectiveWishTest, ExplicitWishOfTheSpecStays) { EXPECT_EQ(effective_wish(Accelerator::Tcg, "kvm"), Accelerator::Tcg); }

TEST(EffectiveWishTest, RefusesUnknownNames) { EXPECT_THROW((void)effective_wish(Accelerator::Auto, "hax"), Error); }

TEST(JudgeProbeTest, PassesWhenAllStagesDid) { EXPECT_EQ(judge_probe(kPassed, "ABCDEFGH", ""), std::nullopt); }

TEST(JudgeProbeTest, ExitCodeAloneIsNoProof) { EXPECT_NE(judge_probe(kPassed, "ABC", ""), std::nullopt); }

TEST(JudgeProbeTest, NamesTheStageThatFailed) {
  const auto why = judge_probe(ExitStatus{3, 0}, "AB!", "");
  ASSERT_TRUE(why);
  EXPECT_NE(why->find("a page fault"), std::string::npos) << *why;
}

TEST(JudgeProbeTest, SaysThatItHung) {
  const auto why = judge_probe(std::nullopt, "", "");
  ASSERT_TRUE(why);
  EXPECT_NE(why->find("hung"), std::string::npos) << *why;
}

TEST(JudgeProbeTest, QuotesQemusFirstLine) {
  const auto why = judge_probe(ExitStatus{-1, 6}, "", "qemu: error: failed to set MSR 0x10a to 0x69\nassertion\n");
  ASSERT_TRUE(why);
  EXPECT_NE(why->find("failed to set MSR"), std::string::npos) << *why;
  EXPECT_EQ(why->find("assertion"), std::string::npos) << *why;
}

TEST(RememberedProofTest, SurvivesJson) {
  const auto read = parse_remembered_proof(to_json(RememberedProof{"key", {Accelerator::Kvm, "it ran"}}));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->key, "key");
  EXPECT_EQ(read->choice.accelerator, Accelerator::Kvm);
  EXPECT_EQ(read->choice.reason, "it ran");
}

TEST(RememberedProofTest, DamagedFileIsNone) {
  EXPECT_EQ(parse_remembered_proof(""), std::nullopt);
  EXPECT_EQ(parse_remembered_proof("{\"key\": \"k\"}"), std::nullopt);
  EXPECT_EQ(parse_remembered_proof("[]"), std::nullopt);
  EXPECT_EQ(parse_remembered_proof(R"({"key": "k", "accelerator": "auto", "reason": ""})"), std::nullopt);
}

/// With a cache and an environment of its own.
class ChooseAcceleratorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("VMTEST_HOME", folder_.path().c_str(), 1);
    ::unsetenv("VMTEST_ACCEL");
  }
  void TearDown() override {
    ::unsetenv("VMTEST_HOME");
    ::unsetenv("VMTEST_ACCEL");
  }

  Architecture foreign() const {
    return host_architecture() == Architecture::X86_64 ? Architecture::Aarch64 : Architecture::X86_64;
  }

  TemporaryDirectory folder_;
};

TEST_F(ChooseAcceleratorTest, ForeignGuestsAreEmulated) {
  const AcceleratorChoice choice = choose_accelerator(Accelerator::Auto, foreign());
  EXPECT_EQ(choice.accelerator, Accelerator::Tcg);
  EXPECT_NE(choice.reason.find("cannot run on the CPU"), std::string::npos) << choice.reason;
}

TEST_F(ChooseAcceleratorTest, KvmThatTheSpecDemandsInVainIsUnsupported) {
  EXPECT_THROW((void)choose_accelerator(Accelerator::Kvm, foreign()), Unsupported);
}

TEST_F(ChooseAcceleratorTest, KvmThatTheEnvironmentDemandsInVainIsAnError) {
  ::setenv("VMTEST_ACCEL", "kvm", 1);
  try {
    (void)choose_accelerator(Accelerator::Auto, foreign());
    FAIL() << "it did not throw";
  } catch (const Unsupported&) {
    FAIL() << "tests would skip";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("VMTEST_ACCEL=kvm"), std::string::npos) << error.what();
  }
}

TEST_F(ChooseAcceleratorTest, EnvironmentForcesEmulation) {
  ::setenv("VMTEST_ACCEL", "tcg", 1);
  const AcceleratorChoice choice = choose_accelerator(Accelerator::Auto, host_architecture());
  EXPECT_EQ(choice.accelerator, Accelerator::Tcg);
  EXPECT_NE(choice.reason.find("VMTEST_ACCEL"), std::string::npos);
}

TEST_F(ChooseAcceleratorTest, SaysWhichAndWhy) {
  const AcceleratorChoice choice = choose_accelerator(Accelerator::Auto, host_architecture());
  EXPECT_NE(choice.accelerator, Accelerator::Auto);
  EXPECT_GT(choice.reason.size(), 10U);
}

TEST_F(ChooseAcceleratorTest, ChoosesTheSameTheSecondTime) {
  const AcceleratorChoice first = choose_accelerator(Accelerator::Auto, host_architecture());
  const AcceleratorChoice second = choose_accelerator(Accelerator::Auto, host_architecture());
  EXPECT_EQ(first.accelerator, second.accelerator);
  EXPECT_EQ(first.reason, second.reason);
}

TEST_F(ChooseAcceleratorTest, ProofOfAnotherBootIsNotTrusted) {
  const AcceleratorChoice proven = prove_kvm(host_architecture());
  ensure_private_dir(cache_dir());
  const Accelerator wrong = proven.accelerator == Accelerator::Kvm ? Accelerator::Tcg : Accelerator::Kvm;
  write_file(cache_dir() / "kvm-proof.json", to_json(RememberedProof{"of another boot", {wrong, "old"}}));
  EXPECT_EQ(choose_accelerator(Accelerator::Auto, host_architecture()).accelerator, proven.accelerator);
}

/// A /dev in which there is a kvm that opens, on any host, while it lives. For this process alone.
class DevicesWithKvm {
 public:
  DevicesWithKvm() {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
    if (::mount("tmpfs", "/dev", "tmpfs", 0, "mode=755") != 0) return;
    mounted_ = true;
    usable_ =
        ::mknod("/dev/null", S_IFCHR | 0666, ::makedev(1, 3)) == 0 && FileDescriptor(::open("/dev/null", O_RDWR | O_CLOEXEC));
    write_file("/dev/kvm", "", 0666);
  }
  ~DevicesWithKvm() {
    if (mounted_) ::umount2("/dev", MNT_DETACH);
  }
  DevicesWithKvm(const DevicesWithKvm&) = delete;
  DevicesWithKvm& operator=(const DevicesWithKvm&) = delete;
  [[nodiscard]] bool usable() const { return usable_; }

 private:
  bool mounted_ = false;
  bool usable_ = false;
};

/// In QEMU's place, while it lives: as if KVM ran the probe. `before`: a line of shell that comes first.
class QemuThatProvesKvm {
 public:
  explicit QemuThatProvesKvm(const std::filesystem::path& folder, const std::string& before = {})
      : path_("PATH", folder.string() + ":" + std::getenv("PATH")) {
    write_file(folder / qemu_program(host_architecture()),
               "#!/bin/sh\n" + before + "\nprintf ABCDEFGH\nexit " + std::to_string(kKvmProbePassed) + "\n", 0700);
  }

 private:
  testing::Variable path_;
};

TEST_F(ChooseAcceleratorTest, ProofHoldsUntilTheHostBootsAgain) {
  if (kvm_probe_image().empty()) GTEST_SKIP() << "this architecture has no probe";
  const DevicesWithKvm devices;
  if (!devices.usable()) GTEST_SKIP() << "mounting a /dev of its own needs root";
  const QemuThatProvesKvm qemu(folder_.path());
  const auto boot_id = folder_.path() / "boot_id";
  const auto boot = [&](const char* id) { write_all(open_file(boot_id, O_WRONLY | O_CREAT | O_TRUNC).get(), id); };
  boot("first");
  ASSERT_EQ(::mount(boot_id.c_str(), "/proc/sys/kernel/random/boot_id", nullptr, MS_BIND, nullptr), 0);
  const AcceleratorChoice proven = choose_accelerator(Accelerator::Auto, host_architecture());
  EXPECT_EQ(proven.accelerator, Accelerator::Kvm) << proven.reason;
  const auto file = cache_dir() / "kvm-proof.json";
  auto remembered = parse_remembered_proof(read_file_tail(file, 65536));
  ASSERT_TRUE(remembered) << proven.reason;
  remembered->choice = {Accelerator::Tcg, "as remembered"};
  write_file(file, to_json(*remembered), 0600);
  EXPECT_EQ(choose_accelerator(Accelerator::Auto, host_architecture()).reason, "as remembered");
  boot("second");
  const AcceleratorChoice anew = choose_accelerator(Accelerator::Auto, host_architecture());
  EXPECT_EQ(anew.accelerator, proven.accelerator);
  EXPECT_EQ(anew.reason, proven.reason);
}

TEST_F(ChooseAcceleratorTest, ProbeThatTookTooLongIsTriedAgain) {
  if (kvm_probe_image().empty()) GTEST_SKIP() << "this architecture has no probe";
  const DevicesWithKvm devices;
  if (!devices.usable()) GTEST_SKIP() << "mounting a /dev of its own needs root";
  const auto slow = folder_.path() / "slow";
  write_file(slow, "");
  // As if the host were too busy, as long as that file is there.
  const QemuThatProvesKvm qemu(folder_.path(), "[ ! -e '" + slow.string() + "' ] || exec sleep 600");
  const AcceleratorChoice first = choose_accelerator(Accelerator::Auto, host_architecture());
  EXPECT_EQ(first.accelerator, Accelerator::Tcg);
  EXPECT_NE(first.reason.find("hung"), std::string::npos) << first.reason;
  std::filesystem::remove(slow);
  const AcceleratorChoice second = choose_accelerator(Accelerator::Auto, host_architecture());
  EXPECT_EQ(second.accelerator, Accelerator::Kvm) << second.reason;
}

}  // namespace
}  // namespace vmtest
