#include <gtest/gtest.h>

#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/ssh_session.h"

namespace vmtest {
namespace {

TEST(SshKeyTest, IsAnOpenSshKeyPair) {
  const SshKeyPair pair = generate_ssh_key("me@here");
  EXPECT_TRUE(pair.private_key.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
  EXPECT_TRUE(pair.public_key.starts_with("ssh-ed25519 AAAA"));
  EXPECT_TRUE(pair.public_key.ends_with(" me@here"));
}

TEST(SshKeyTest, TwoKeysDiffer) { EXPECT_NE(generate_ssh_key("a"), generate_ssh_key("a")); }

TEST(SshKeyTest, SshKeygenReadsBothHalvesAndAgreesOnTheFingerprint) {
  if (!find_program("ssh-keygen")) GTEST_SKIP() << "no ssh-keygen here";
  const SshKeyPair pair = generate_ssh_key("c");
  const TemporaryDirectory folder;
  write_file(folder.path() / "key", pair.private_key, 0600);
  const auto derived = run_tool({"ssh-keygen", "-y", "-f", folder.path() / "key"}, Deadline::after(std::chrono::seconds(10)));
  const std::string base64 = pair.public_key.substr(0, pair.public_key.rfind(' '));
  EXPECT_TRUE(derived.out.starts_with(base64)) << derived.out;
  const auto listed = run_tool({"ssh-keygen", "-l", "-f", folder.path() / "key"}, Deadline::after(std::chrono::seconds(10)));
  EXPECT_NE(listed.out.find(ssh_fingerprint(pair.public_key)), std::string::npos) << listed.out;
}

TEST(SshKeyTest, FingerprintOfNoKeyThrows) { EXPECT_THROW((void)ssh_fingerprint("ssh-ed25519 what"), Error); }

TEST(SshOptionsTest, RefusesAMissingHostKey) {
  SshOptions options;
  options.private_key = generate_ssh_key("c").private_key;
  EXPECT_THROW(SshSession{options}, Error);
}

TEST(SshOptionsTest, RefusesAPrivateKeyThatIsNone) {
  SshOptions options;
  options.private_key = "secret";
  options.host_key = generate_ssh_key("h").public_key;
  EXPECT_THROW(SshSession{options}, Error);
}

}  // namespace
}  // namespace vmtest
