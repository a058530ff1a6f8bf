#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace vmtest {

/// How a guest with cloud-init uses the seed. Guests without it (`tiny`) do the same for both.
enum class SeedProfile {
  /// One cloud-init stage instead of four, then the marker as soon as sshd is up and the network has its address. sshd gets
  /// a configuration that makes logins cheap: no PAM (so no logind session and no user manager), one host key, curve25519.
  Fast,
  /// cloud-init's and sshd's own behaviour, untouched: all four stages, and the marker by the last line of `runcmd`.
  Stock,
};

/// An account of the guest. `root` is an ordinary entry; other accounts are made when missing, and may use sudo where the image
/// has it (`tiny` has not).
struct SeedUser {
  std::string name = {};
  /// Public keys that may log in, one line each. Nobody gets a password.
  std::vector<std::string> ssh_authorized_keys = {};
};

/// The guest's ed25519 host key, made by the host so that it is known before the first connection.
struct SeedHostKey {
  /// Content of an OpenSSH private key file.
  std::string private_key = {};
  /// The public key line.
  std::string public_key = {};
};

/// A file that exists before sshd starts. Owned by root.
struct SeedFile {
  /// Absolute and normal (no `..`). Missing folders are made.
  std::string path = {};
  /// Any bytes.
  std::string content = {};
  unsigned permissions = 0644;
  /// Adds to the file instead of replacing it.
  bool append = false;
};

/// The guest's side of one network card.
struct SeedNic {
  /// Finds the card, "52:54:00:12:34:56". Empty only for the guest's first card when it is the only one configured.
  std::string mac_address = {};
  bool dhcp4 = true;
  /// Static addresses with prefix length, "10.44.0.2/30" or "fd00::2/64".
  std::vector<std::string> addresses = {};
  /// Default routes: at most one address per family. Empty for none.
  std::vector<std::string> gateways = {};
  std::vector<std::string> nameservers = {};
};

/// All a guest is told about itself. A value; the functions below are pure, so the same SeedConfig gives the same bytes.
struct SeedConfig {
  /// Names this configuration: a disk that has seen it is not configured again. Letters, digits, '.', '_' and '-'.
  std::string instance_id = {};
  /// RFC 1123, at most 64 characters.
  std::string hostname = "vmtest";
  std::vector<SeedUser> users = {};
  /// Without one the guest makes its own keys, which is slow under emulation and cannot be pinned beforehand.
  std::optional<SeedHostKey> host_key = {};
  std::vector<SeedFile> files = {};
  /// Run once, in order, as root in `/`, after sshd and the network are up and before the marker: program and arguments, no
  /// shell. The first that fails ends the sequence: the console then shows `VMTEST_FAILED ...` and no marker.
  std::vector<std::vector<std::string>> commands = {};
  /// Cards to configure. Empty: DHCP on the first card.
  std::vector<SeedNic> nics = {};
  /// Environment of SSH logins. Names of letters, digits and '_'; values of one line.
  std::map<std::string, std::string> environment = {};
  SeedProfile profile = SeedProfile::Fast;
  /// Whether Fast, too, makes the root file system as large as its disk, which runs further programs. Stock always does, and
  /// `tiny`.
  bool grow_root = false;
};

/// Throws Error that names the field and what is wrong with it. The functions below call it first.
void validate(const SeedConfig& config);

/// The three files of the NoCloud datasource; docs/seed.md lists their keys. All throw Error for an invalid config.
/// Source: https://cloudinit.readthedocs.io/en/22.4.2/topics/datasources/nocloud.html
[[nodiscard]] std::string user_data(const SeedConfig& config);
[[nodiscard]] std::string meta_data(const SeedConfig& config);
/// Empty when `nics` is: the file is left out then.
[[nodiscard]] std::string network_config(const SeedConfig& config);

/// Kernel parameters that go with the profile at a direct boot, to be put behind the image's own; empty for Stock. Nothing
/// depends on them: they only spare a guest work (searching other datasources, loading KVM and Wi-Fi modules that have nothing
/// to drive, checking a file system that was just cloned, printing what nobody reads). Errors and panics still show on the
/// console. Tests of what they leave out use SeedProfile::Stock or a command line of their own.
[[nodiscard]] std::string kernel_parameters(const SeedConfig& config);

/// Writes the seed as an ISO 9660 image (Rock Ridge and Joliet, volume label `cidata`), whole or not at all. The file holds
/// the host's private key: its mode is 0600. Throws Error for an invalid config or when libarchive fails, std::system_error
/// when the file cannot be written.
void write_seed_iso(const SeedConfig& config, const std::filesystem::path& iso);

/// A further file for the root folder of a seed, such as a program that the guest runs from there.
struct SeedPayload {
  /// Letters, digits, '.', '_' and '-'.
  std::string name = {};
  std::string content = {};
  unsigned permissions = 0444;
};
void write_seed_iso(const SeedConfig& config, const std::vector<SeedPayload>& payloads, const std::filesystem::path& iso);

}  // namespace vmtest
