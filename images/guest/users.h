#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "guest/seed.h"

namespace vmtest::guest {

/// An account in /etc/passwd.
struct Account {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
  std::string home;
};

/// The accounts in the text of a passwd file; broken lines are skipped.
[[nodiscard]] std::vector<Account> parse_passwd(const std::string& text);

/// Makes the account unless it exists (home folder, own group, no password) and writes its authorized keys. Throws.
void set_up_user(const SeedUser& user);
/// Writes a file of the seed with permissions and owner. Throws when the owner is unknown.
void write_seed_file(const SeedFile& file);

}  // namespace vmtest::guest
