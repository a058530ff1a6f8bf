#include "guest/users.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "guest/files.h"

namespace vmtest::guest {
namespace {

constexpr uid_t kFirstUser = 1000;
constexpr uid_t kLastUser = 59999;

/// Like split, but empty fields count.
std::vector<std::string> fields_of(std::string_view line) {
  std::vector<std::string> fields;
  while (true) {
    const std::size_t colon = line.find(':');
    fields.emplace_back(line.substr(0, colon));
    if (colon == std::string_view::npos) {
      return fields;
    }
    line.remove_prefix(colon + 1);
  }
}

std::optional<unsigned> parse_number(const std::string& text) {
  char* end = nullptr;
  const unsigned long value = std::strtoul(text.c_str(), &end, 10);
  return text.empty() || *end != '\0' ? std::nullopt : std::optional(static_cast<unsigned>(value));
}

std::optional<Account> find_account(const std::string& name) {
  for (Account& account : parse_passwd(find_file("/etc/passwd").value_or(""))) {
    if (account.name == name) {
      return std::move(account);
    }
  }
  return std::nullopt;
}

std::optional<gid_t> find_group(const std::string& name) {
  const std::string text = find_file("/etc/group").value_or("");
  for (const std::string_view line : split(text, "\n")) {
    const std::vector<std::string> fields = fields_of(line);
    if (fields.size() >= 3 && fields[0] == name) {
      return parse_number(fields[2]);
    }
  }
  return std::nullopt;
}

Account add_account(const std::string& name) {
  uid_t uid = kFirstUser;
  for (const Account& account : parse_passwd(find_file("/etc/passwd").value_or(""))) {
    if (account.uid >= uid && account.uid < kLastUser) {
      uid = account.uid + 1;
    }
  }
  const Account account{name, uid, uid, "/home/" + name};
  const std::string id = std::to_string(uid);
  write_file("/etc/group", name + ":x:" + id + ":\n", 0644, WriteMode::Append);
  write_file("/etc/passwd", name + ":x:" + id + ":" + id + "::" + account.home + ":/bin/sh\n", 0644, WriteMode::Append);
  write_file("/etc/shadow", name + ":*:19000:0:99999:7:::\n", 0640, WriteMode::Append);
  return account;
}

void own_folder(const std::string& path, mode_t permissions, const Account& owner) {
  make_folders(path);
  if (chown(path.c_str(), owner.uid, owner.gid) != 0 || chmod(path.c_str(), permissions) != 0) {
    fail_errno("cannot give " + path + " to " + owner.name);
  }
}

}  // namespace

std::vector<Account> parse_passwd(const std::string& text) {
  std::vector<Account> accounts;
  for (const std::string_view line : split(text, "\n")) {
    const std::vector<std::string> fields = fields_of(line);
    if (fields.size() < 7) {
      continue;
    }
    const std::optional<unsigned> uid = parse_number(fields[2]);
    const std::optional<unsigned> gid = parse_number(fields[3]);
    if (uid && gid) {
      accounts.push_back({fields[0], *uid, *gid, fields[5]});
    }
  }
  return accounts;
}

void set_up_user(const SeedUser& user) {
  std::optional<Account> account = find_account(user.name);
  if (!account) {
    account = add_account(user.name);
    own_folder(account->home, 0755, *account);
  }
  if (user.authorized_keys.empty()) {
    return;
  }
  std::string keys;
  for (const std::string& key : user.authorized_keys) {
    keys += std::string(trim(key)) + "\n";
  }
  const std::string folder = account->home + "/.ssh";
  const std::string file = folder + "/authorized_keys";
  own_folder(folder, 0700, *account);
  write_file(file, keys, 0600);
  if (chown(file.c_str(), account->uid, account->gid) != 0) {
    fail_errno("cannot give " + file + " to " + user.name);
  }
}

void write_seed_file(const SeedFile& file) {
  write_file(file.path, file.content, file.permissions, file.append ? WriteMode::Append : WriteMode::Replace);
  if (file.owner.empty()) {
    return;
  }
  const std::size_t colon = file.owner.find(':');
  const std::string user = file.owner.substr(0, colon);
  const std::optional<Account> account = find_account(user);
  std::optional<gid_t> group = account ? std::optional(account->gid) : std::nullopt;
  if (colon != std::string::npos) {
    group = find_group(file.owner.substr(colon + 1));
  }
  if (!account || !group) {
    throw std::runtime_error("write_files: owner \"" + file.owner + "\" of " + file.path + " is unknown");
  }
  // After chown, which clears the set-user-id bits.
  if (chown(file.path.c_str(), account->uid, *group) != 0 || chmod(file.path.c_str(), file.permissions) != 0) {
    fail_errno("cannot give " + file.path + " to " + file.owner);
  }
}

}  // namespace vmtest::guest
