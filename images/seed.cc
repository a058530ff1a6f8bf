#include "vmtest/seed.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "seed_guest.h"
#include "vmtest/error.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void refuse(const std::string& field, std::string_view value, const std::string& reason) {
  throw Error("seed: " + field + " \"" + sanitize_console(value.substr(0, 80)) + "\": " + reason);
}

bool is_letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

bool consists_of(std::string_view text, std::string_view further_characters) {
  return std::ranges::all_of(
      text, [&](char c) { return is_letter_or_digit(c) || further_characters.find(c) != std::string_view::npos; });
}

bool has_control_characters(std::string_view text) {
  return std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

void validate_hostname(const std::string& hostname) {
  constexpr std::size_t kMaximum = 64;  // what Linux takes
  if (hostname.empty() || hostname.size() > kMaximum) {
    refuse("hostname", hostname, "must have 1 to 64 characters");
  }
  std::string_view rest = hostname;
  for (bool more = true; more;) {
    const std::size_t dot = rest.find('.');
    const std::string_view label = rest.substr(0, dot);
    if (label.empty() || label.size() > 63 || label.front() == '-' || label.back() == '-' || !consists_of(label, "-")) {
      refuse("hostname", hostname, "must be letters, digits and inner '-', in parts of 1 to 63 joined by '.'");
    }
    more = dot != std::string_view::npos;
    rest = more ? rest.substr(dot + 1) : std::string_view();
  }
}

void validate_public_key(const std::string& field, const std::string& key) {
  const bool known = key.starts_with("ssh-") || key.starts_with("ecdsa-") || key.starts_with("sk-");
  if (!known || has_control_characters(key) || key.find(' ') == std::string::npos) {
    refuse(field, key, "must be one line of an OpenSSH public key file (\"ssh-ed25519 AAAA...\")");
  }
}

void validate_user(const SeedUser& user) {
  const std::string& name = user.name;
  const bool starts_well = !name.empty() && ((name[0] >= 'a' && name[0] <= 'z') || name[0] == '_');
  const bool lower = std::ranges::none_of(name, [](char c) { return c >= 'A' && c <= 'Z'; });
  if (!starts_well || !lower || name.size() > 32 || !consists_of(name, "_-")) {
    refuse("user", name, "must be 1 to 32 lower-case letters, digits, '_' and '-', starting with a letter or '_'");
  }
  for (const std::string& key : user.ssh_authorized_keys) {
    validate_public_key("key of user " + name, key);
  }
}

void validate_file(const SeedFile& file) {
  const std::filesystem::path path = file.path;
  if (!path.is_absolute() || path.lexically_normal() != path || !path.has_filename() || file.path.size() > 4095 ||
      has_control_characters(file.path)) {
    refuse("file", file.path, "must be an absolute path of a file, without \"..\", doubled slashes and control characters");
  }
  if (file.permissions > 07777) {
    refuse("file", file.path, "permissions must be four octal digits");
  }
}

void validate_command(const std::vector<std::string>& command) {
  if (command.empty() || command[0].empty() || has_control_characters(command[0])) {
    refuse("command", command.empty() ? "" : command[0], "must begin with the name of a program");
  }
  for (const std::string& argument : command) {
    if (argument.find('\0') != std::string::npos) {
      refuse("command", command[0], "an argument holds a NUL character");
    }
  }
}

bool is_mac(std::string_view text) {
  constexpr std::size_t kLength = 17;
  if (text.size() != kLength) {
    return false;
  }
  for (std::size_t i = 0; i < kLength; ++i) {
    const bool hex =
        (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f') || (text[i] >= 'A' && text[i] <= 'F');
    if (i % 3 == 2 ? text[i] != ':' : !hex) {
      return false;
    }
  }
  return true;
}

bool is_ipv6(std::string_view address) { return address.find(':') != std::string_view::npos; }

bool is_address_with_prefix(const std::string& text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string::npos || !is_ip_address(text.substr(0, slash))) {
    return false;
  }
  const std::string length = text.substr(slash + 1);
  const bool digits =
      !length.empty() && length.size() <= 3 && std::ranges::all_of(length, [](char c) { return c >= '0' && c <= '9'; });
  return digits && std::stoi(length) <= (is_ipv6(text) ? 128 : 32);
}

void validate_nic(const SeedNic& nic, std::size_t count) {
  if (nic.mac_address.empty() ? count > 1 : !is_mac(nic.mac_address)) {
    refuse("MAC address", nic.mac_address, "must be six hex pairs joined by ':' (it may be empty for a single card)");
  }
  for (const std::string& address : nic.addresses) {
    if (!is_address_with_prefix(address)) {
      refuse("address", address, "must be an IP address with its prefix length (\"10.44.0.2/30\")");
    }
  }
  std::array<int, 2> gateways_by_family = {};
  for (const std::string& gateway : nic.gateways) {
    if (!is_ip_address(gateway) || ++gateways_by_family.at(is_ipv6(gateway) ? 1 : 0) > 1) {
      refuse("gateway", gateway, "must be an IP address, one per family at most");
    }
  }
  for (const std::string& nameserver : nic.nameservers) {
    if (!is_ip_address(nameserver)) {
      refuse("nameserver", nameserver, "must be an IP address");
    }
  }
}

void validate_variable(const std::string& name, const std::string& value) {
  if (name.empty() || (name[0] >= '0' && name[0] <= '9') || !consists_of(name, "_")) {
    refuse("environment variable", name, "must be letters, digits and '_', not starting with a digit");
  }
  if (has_control_characters(value)) {
    refuse("environment variable", name, "its value must be one line without control characters");
  }
}

/// One word for a POSIX shell, whatever it holds.
std::string shell_word(std::string_view text) {
  std::string result = "'";
  for (const char c : text) {
    result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return result + "'";
}

/// A command as people are told of it when it fails: the start of it, on one line. Of a shell line, that line.
std::string shown_command(const std::vector<std::string>& argv) {
  constexpr std::size_t kShownCommand = 120;
  std::string text;
  const bool is_shell_line = argv.size() == 3 && argv[0] == "/bin/sh" && argv[1] == "-c";
  for (std::size_t i = is_shell_line ? 2 : 0; i < argv.size(); ++i) text += (text.empty() ? "" : " ") + argv[i];
  if (text.size() > kShownCommand) {
    std::size_t end = kShownCommand;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not within a character
    text = text.substr(0, end) + "...";
  }
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return text;
}

/// A value between double quotes for sshd_config.
std::string quoted_value(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
    }
    result += c;
  }
  return result + "\"";
}

/// Which address the marker is to wait for.
std::string_view address_wanted(const SeedConfig& config) {
  const auto has = [&](bool ipv6) {
    return std::ranges::any_of(config.nics, [&](const SeedNic& nic) {
      return (!ipv6 && nic.dhcp4) || std::ranges::any_of(nic.addresses, [&](const std::string& a) { return is_ipv6(a) == ipv6; });
    });
  };
  return has(false) ? "ipv4" : has(true) ? "ipv6" : "unknown";
}

std::string ready_script(const SeedConfig& config) {
  const bool fast = config.profile == SeedProfile::Fast;
  std::string script(kReadyFunctions);
  script += "\nid=" + config.instance_id + "\naddress_wanted=" + std::string(address_wanted(config)) + "\n";
  if (fast) {
    script += "\ncommands() {\n  :\n";
    for (const std::vector<std::string>& command : config.commands) {
      script += "  run " + shell_word(shown_command(command));
      for (const std::string& argument : command) {
        script += " " + shell_word(argument);
      }
      script += "\n";
    }
    script += "}\n";
  }
  return script + std::string(fast ? kReadyMainFast : kReadyMainStock);
}

/// What goes into sshd's configuration; empty for none.
std::string sshd_drop_in(const SeedConfig& config) {
  std::string content(config.profile == SeedProfile::Fast ? kSshdDropIn : "");
  std::string variables;  // sshd heeds the first SetEnv line only
  for (const auto& [name, value] : config.environment) {
    variables += " " + name + "=" + quoted_value(value);
  }
  return variables.empty() ? content : content + "SetEnv" + variables + "\n";
}

/// The files a guest gets: those that vmtest needs, then the user's, which may replace ours.
std::vector<SeedFile> all_files(const SeedConfig& config) {
  std::vector<SeedFile> files;
  std::string environment;
  for (const auto& [name, value] : config.environment) {
    // pam_env takes off the outer quotes and leaves what is between them as it is.
    environment += name + "=\"" + value + "\"\n";
  }
  if (!environment.empty()) {
    files.push_back({.path = "/etc/environment", .content = environment, .append = true});
  }
  if (const std::string sshd = sshd_drop_in(config); !sshd.empty()) {
    files.push_back({.path = "/etc/ssh/sshd_config.d/10-vmtest.conf", .content = sshd});
  }
  // 0700: the user's commands stand in it and may hold secrets.
  files.push_back({.path = std::string(kReadyScriptPath), .content = ready_script(config), .permissions = 0700});
  if (config.profile == SeedProfile::Fast) {
    const std::string units = "/etc/systemd/system/";
    // sshd's unit reads this when it starts: a drop-in of its would come too late for the first boot.
    files.push_back({.path = "/etc/default/ssh", .content = std::string(kSshdOptions), .append = true});
    // cloud-init leaves this to the image; without it, sudo asks the name server for the guest's own name.
    files.push_back({.path = "/etc/hosts", .content = "127.0.1.1\t" + config.hostname + "\n", .append = true});
    files.push_back({.path = units + "vmtest-ready.service", .content = std::string(kReadyUnit)});
    files.push_back({.path = units + "multi-user.target.d/vmtest.conf", .content = std::string(kReadyWanted)});
    files.push_back({.path = std::string(kSeedCheckPath),
                     .content = "#!/bin/sh\nid=" + config.instance_id + std::string(kSeedCheckMain),
                     .permissions = 0755});
    files.push_back({.path = units + "cloud-init-local.service.d/vmtest.conf", .content = std::string(kLocalStageCondition)});
    for (const std::string_view stage : {"cloud-init", "cloud-config", "cloud-final"}) {
      files.push_back(
          {.path = units + std::string(stage) + ".service.d/vmtest.conf", .content = std::string(kLaterStageCondition)});
    }
  } else {
    files.push_back({.path = "/var/lib/cloud/scripts/per-boot/vmtest-ready",
                     .content = "#!/bin/sh\nexec " + std::string(kReadyScriptPath) + " later-boot\n",
                     .permissions = 0755});
  }
  files.insert(files.end(), config.files.begin(), config.files.end());
  return files;
}

Json user_json(const SeedUser& user) {
  Json entry = {{"name", user.name}, {"lock_passwd", false}, {"ssh_authorized_keys", user.ssh_authorized_keys}};
  if (user.name != "root") {
    entry["shell"] = "/bin/bash";
    entry["sudo"] = "ALL=(ALL) NOPASSWD:ALL";
    // A password nobody can give, but no locked account: sshd without PAM lets nobody into those.
    entry["passwd"] = "*";
  }
  return entry;
}

Json runcmd(const SeedConfig& config) {
  Json list = Json::array();
  const bool stock = config.profile == SeedProfile::Stock;
  const std::string ready(kReadyScriptPath);
  if (stock && !config.commands.empty()) {
    list.push_back("set -e; trap 'vmtest_status=$?; [ $vmtest_status -eq 0 ] || " + ready +
                   " failed \"$vmtest_command\" $vmtest_status' EXIT");
  }
  for (std::size_t i = 0; i < config.commands.size(); ++i) {
    if (stock) {
      list.push_back("vmtest_command=" + shell_word(shown_command(config.commands[i])));
    }
    list.push_back(config.commands[i]);
  }
  if (stock) {
    list.push_back(ready);
  }
  return list;
}

std::string to_text(const Json& json, std::string_view what) {
  try {
    return json.dump();
  } catch (const nlohmann::json::exception&) {
    throw Error("seed: " + std::string(what) + " holds text that is not UTF-8; use a file of the seed for other bytes");
  }
}

}  // namespace

void validate(const SeedConfig& config) {
  if (config.instance_id.empty() || config.instance_id.size() > 128 || !consists_of(config.instance_id, "._-")) {
    refuse("instance_id", config.instance_id, "must be 1 to 128 letters, digits, '.', '_' and '-'");
  }
  validate_hostname(config.hostname);
  std::ranges::for_each(config.users, validate_user);
  if (config.host_key) {
    validate_public_key("host key", config.host_key->public_key);
    if (!config.host_key->private_key.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n")) {
      refuse("host key", "(private)", "must be the content of an OpenSSH private key file");
    }
  }
  std::ranges::for_each(config.files, validate_file);
  std::ranges::for_each(config.commands, validate_command);
  for (const SeedNic& nic : config.nics) {
    validate_nic(nic, config.nics.size());
  }
  for (const auto& [name, value] : config.environment) {
    validate_variable(name, value);
  }
}

std::string user_data(const SeedConfig& config) {
  validate(config);
  Json data = {{"hostname", config.hostname}, {"disable_root", false}};
  data["users"] = Json::array();
  for (const SeedUser& user : config.users) {
    data["users"].push_back(user_json(user));
  }
  if (config.host_key) {
    data["ssh_keys"] = {{"ed25519_private", config.host_key->private_key}, {"ed25519_public", config.host_key->public_key}};
  }
  if (!config.host_key && config.profile == SeedProfile::Fast) {
    data["ssh_genkeytypes"] = {"ed25519"};
  }
  data["write_files"] = Json::array();
  for (const SeedFile& file : all_files(config)) {
    std::array<char, 8> permissions = {};
    std::snprintf(permissions.data(), permissions.size(), "%04o", file.permissions & 07777U);
    Json entry = {
        {"path", file.path}, {"encoding", "b64"}, {"content", base64(file.content)}, {"permissions", permissions.data()}};
    if (file.append) {
      entry["append"] = true;
    }
    data["write_files"].push_back(std::move(entry));
  }
  if (Json commands = runcmd(config); !commands.empty()) {
    data["runcmd"] = std::move(commands);
  }
  if (config.profile == SeedProfile::Fast) {
    // The only modules that run, all in the first stage, bootcmd last: it calls off the other stages.
    Json modules = Json::array();
    if (config.grow_root) {
      modules = {"growpart", "resizefs"};
    }
    for (const char* name : {"write-files", "users-groups", "ssh", "bootcmd"}) {
      modules.push_back(name);
    }
    data["cloud_init_modules"] = std::move(modules);
    data["bootcmd"] = {{"/bin/sh", "-c", kFinishFirstStage, "sh", config.instance_id}};
  }
  return "#cloud-config\n" + to_text(data, "a command, user or environment value") + "\n";
}

std::string meta_data(const SeedConfig& config) {
  validate(config);
  Json data = {{"instance-id", config.instance_id}, {"local-hostname", config.hostname}};
  if (config.profile == SeedProfile::Fast) {
    // Makes cloud-init do the work of its second stage, which waits for the network, in its first.
    data["dsmode"] = "local";
  }
  return to_text(data, "meta-data") + "\n";
}

std::string network_config(const SeedConfig& config) {
  validate(config);
  if (config.nics.empty()) {
    return {};
  }
  Json ethernets = Json::object();
  for (std::size_t i = 0; i < config.nics.size(); ++i) {
    const SeedNic& nic = config.nics[i];
    Json card = Json::object();
    if (!nic.mac_address.empty()) {
      std::string mac = nic.mac_address;
      std::ranges::transform(mac, mac.begin(), [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
      card["match"] = {{"macaddress", mac}};
    } else {
      card["match"] = {{"name", "e*"}};
    }
    card["dhcp4"] = nic.dhcp4;
    if (!nic.addresses.empty()) {
      card["addresses"] = nic.addresses;
    }
    for (const std::string& gateway : nic.gateways) {
      card["routes"].push_back({{"to", is_ipv6(gateway) ? "::/0" : "0.0.0.0/0"}, {"via", gateway}});
    }
    if (!nic.nameservers.empty()) {
      card["nameservers"] = {{"addresses", nic.nameservers}};
    }
    ethernets["nic" + std::to_string(i)] = std::move(card);
  }
  return to_text({{"version", 2}, {"ethernets", std::move(ethernets)}}, "network-config") + "\n";
}

std::string kernel_parameters(const SeedConfig& config) {
  return std::string(config.profile == SeedProfile::Fast ? kFastKernelParameters : "");
}

}  // namespace vmtest
