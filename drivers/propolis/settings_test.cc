#include "settings.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <functional>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::propolis {
namespace {

std::string failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

class PropolisSettingsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"VMTEST_PROPOLIS", "VMTEST_PROPOLIS_BOOTROM", "VMTEST_PROPOLIS_LINK", "VMTEST_PROPOLIS_ADDRESS"})
      ::unsetenv(name);
    write_file(rom(), std::string(8192, 'x'));
    ::setenv("VMTEST_PROPOLIS_BOOTROM", rom().c_str(), 1);
  }
  [[nodiscard]] std::filesystem::path rom() const { return folder_.path() / "rom"; }
  static void set(const char* value) { ::setenv("VMTEST_PROPOLIS", value, 1); }

  TemporaryDirectory folder_;
};

TEST_F(PropolisSettingsTest, ProgramAndBootRomAreNamed) {
  set("/bin/true");
  const Settings settings = read_settings();
  EXPECT_EQ(settings.source, Settings::Source::Program);
  EXPECT_EQ(settings.program, "/bin/true");
  EXPECT_EQ(settings.bootrom, rom());
}

TEST_F(PropolisSettingsTest, RunningServerIsAnAddress) {
  set("http://127.0.0.1:12400/");
  const Settings settings = read_settings();
  EXPECT_EQ(settings.source, Settings::Source::Running);
  EXPECT_EQ(settings.host, "127.0.0.1");
  EXPECT_EQ(settings.port, 12400);
  set("http://[::1]:1");
  EXPECT_EQ(read_settings().host, "::1");
}

TEST_F(PropolisSettingsTest, AddressesThatAreNoneAreNamed) {
  for (const char* wrong : {"http://", "http://127.0.0.1", "http://127.0.0.1:0", "http://127.0.0.1:65536", "http://host:1",
                            "http://127.0.0.1:1/x", "http://127.0.0.1:-1"}) {
    set(wrong);
    EXPECT_NE(failure_of([] { (void)read_settings(); }).find(wrong), std::string::npos) << wrong;
  }
}

TEST_F(PropolisSettingsTest, ProgramThatIsNotThereIsNamed) {
  set("/nonexistent/propolis-server");
  EXPECT_EQ(failure_of([] { (void)read_settings(); }), "VMTEST_PROPOLIS=/nonexistent/propolis-server is no program");
}

TEST_F(PropolisSettingsTest, ZoneNeedsToBeDescribed) {
  set("zone:nebula-vm");
  EXPECT_NE(failure_of([] { (void)read_settings(); }).find("VMTEST_PROPOLIS_ADDRESS"), std::string::npos);
  set("zone:");
  EXPECT_NE(failure_of([] { (void)read_settings(); }).find("no brand"), std::string::npos);
}

TEST_F(PropolisSettingsTest, BootRomsThatTheServerWouldAbortOverAreRefused) {
  EXPECT_NE(failure_of([&] { check_bootrom(folder_.path() / "none"); }).find("No such file"), std::string::npos);
  for (const std::size_t size : {std::size_t{0}, std::size_t{4097}, std::size_t{(2U << 20) + 4096}}) {
    write_file(rom(), std::string(size, 'x'));
    EXPECT_NE(failure_of([&] { check_bootrom(rom()); }).find("at most 2 MiB"), std::string::npos) << size;
  }
  write_file(rom(), std::string(2U << 20, 'x'));
  EXPECT_NO_THROW(check_bootrom(rom()));
}

}  // namespace
}  // namespace vmtest::propolis
