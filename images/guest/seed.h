#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmtest::guest {

/// An account to make or to complete.
struct SeedUser {
  std::string name;
  std::vector<std::string> authorized_keys;
};

/// A file to write.
struct SeedFile {
  std::string path;
  /// Decoded.
  std::string content;
  mode_t permissions = 0644;
  bool append = false;
  /// "user" or "user:group"; empty means root.
  std::string owner;
};

/// A default route or a route to one network.
struct SeedRoute {
  /// With its prefix length, "0.0.0.0/0" for instance.
  std::string to;
  std::string via;
};

/// How one network card is set up.
struct SeedCard {
  /// The label in the seed, for messages only.
  std::string label;
  /// Lower case; empty means the first Ethernet card.
  std::string mac;
  bool dhcp4 = false;
  /// With prefix lengths, IPv4 and IPv6.
  std::vector<std::string> addresses;
  std::vector<SeedRoute> routes;
  std::vector<std::string> nameservers;
};

/// What a NoCloud seed asks for, in the form docs/seed.md describes. A plain value.
struct Seed {
  std::string instance_id;
  std::string hostname = "tiny";
  std::vector<SeedUser> users;
  /// OpenSSH private key file of the ed25519 host key; empty: the guest makes its own.
  std::string host_key;
  std::vector<SeedFile> files;
  /// Programs with their arguments.
  std::vector<std::vector<std::string>> commands;
  /// Absent when the seed says nothing about the network: DHCP on the first card.
  std::optional<std::vector<SeedCard>> cards;
};

/// The texts of a seed's three files; empty when a file is absent.
struct SeedTexts {
  std::string meta_data;
  std::string user_data;
  std::optional<std::string> network_config;
};

/// Reads a seed. Keys that only concern cloud-init are skipped. Throws std::runtime_error that names the file and the key.
[[nodiscard]] Seed parse_seed(const SeedTexts& texts);

}  // namespace vmtest::guest
