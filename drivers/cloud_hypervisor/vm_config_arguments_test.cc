// What of a value is quoted on the command line, and what cannot be given there.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "failure.h"
#include "vm_config.h"

namespace vmtest::cloud_hypervisor {
namespace {

using Words = std::vector<std::string>;

/// The values of an option on a command line.
Words values_of(const Words& words, const std::string& option) {
  Words values;
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == option) values.push_back(words[i + 1]);
  }
  return values;
}

TEST(CloudHypervisorArgumentsTest, WhatItsParserWouldTakeApartIsQuoted) {
  VmConfig config;
  for (const char* path : {"/vms/a,readonly=on", "/vms/\"a\"", "\"", "/vms/[a]", "/vms/a ", "/vms/\xc3\xa4", "/a\nb", "/a=b'c"}) {
    config.disks.push_back({.path = path});
  }
  // clang-format off
  const Words expected = {
      R"(path="/vms/a,readonly=on",image_type=raw)",
      R"(path="/vms/""a""",image_type=raw)",
      R"(path="""",image_type=raw)",
      R"(path="/vms/[a]",image_type=raw)",
      R"(path="/vms/a ",image_type=raw)",
      "path=\"/vms/\xc3\xa4\",image_type=raw",
      "path=\"/a\nb\",image_type=raw",
      R"(path=/a=b'c,image_type=raw)",
  };
  // clang-format on
  EXPECT_EQ(values_of(to_arguments(config), "--disk"), expected);
}

TEST(CloudHypervisorArgumentsTest, WhateverIsTextIsQuotedAlike) {
  VmConfig config;
  config.disks = {{.path = "/d", .id = "a,b", .serial = "c,d"}};
  config.net = {{.tap = "tap,1"}};
  config.fs = {{.tag = "e,f", .socket = "/g,h"}};
  config.rng_src = "/dev/i,j";
  config.serial = {ConsoleConfig::Mode::File, "/k,l"};
  config.console = {ConsoleConfig::Mode::Socket, "/m,n"};
  config.vsock = VsockConfig{.socket = "/o,p"};
  config.tpm_socket = "/q,r";
  config.serial_number = "s,t";
  // clang-format off
  const Words expected = {
      "--cpus", "boot=1,max=1",
      "--memory", "size=0",
      "--disk", R"(path=/d,image_type=raw,id="a,b",serial="c,d")",
      "--net", R"(tap="tap,1")",
      "--fs", R"(tag="e,f",socket="/g,h",num_queues=1,queue_size=1024)",
      "--rng", R"(src="/dev/i,j")",
      "--serial", R"(file="/k,l")",
      "--console", R"(socket="/m,n")",
      "--vsock", R"(cid=3,socket="/o,p")",
      "--tpm", R"(socket="/q,r")",
      "--platform", R"(serial_number="s,t")",
  };
  // clang-format on
  EXPECT_EQ(to_arguments(config), expected);
  EXPECT_EQ(path_option("/run/a,b/api.sock"), R"(path="/run/a,b/api.sock")");
}

TEST(CloudHypervisorArgumentsTest, WhatStandsForItselfIsNotQuoted) {
  VmConfig config;
  config.payload = {.kernel = "/a,b/\"vmlinux\"", .initramfs = "-initrd", .cmdline = "-- single"};
  // clang-format off
  const Words expected = {
      "--cpus", "boot=1,max=1",
      "--memory", "size=0",
      "--kernel", "/a,b/\"vmlinux\"",
      "--initramfs=-initrd",
      "--cmdline=-- single",
      "--serial", "null",
      "--console", "off",
  };
  // clang-format on
  EXPECT_EQ(to_arguments(config), expected);
}

TEST(CloudHypervisorArgumentsTest, WhatNoArgumentCanHoldIsRefused) {
  VmConfig bytes;
  bytes.disks = {{.path = "/vms/\xff"}};
  VmConfig nul;
  nul.disks = {{.path = std::string("/vms/a\0b", 8)}};
  VmConfig kernel;
  kernel.payload.kernel = "/images/\xc3";
  for (const VmConfig& config : {bytes, nul, kernel}) {
    const std::string why = testing::failure_of([&] { (void)to_arguments(config); });
    EXPECT_NE(why.find("Cloud Hypervisor cannot be given \"/"), std::string::npos) << why;
    EXPECT_NE(why.find("which takes UTF-8 without NUL bytes; rename it"), std::string::npos) << why;
  }
}

}  // namespace
}  // namespace vmtest::cloud_hypervisor
