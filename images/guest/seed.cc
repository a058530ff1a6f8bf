#include "guest/seed.h"

#include <algorithm>
#include <stdexcept>

#include "guest/files.h"
#include "guest/json.h"

namespace vmtest::guest {
namespace {

constexpr std::string_view kUserDataHeader = "#cloud-config";

std::string optional_string(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  return value == nullptr ? std::string() : value->string(key);
}

bool is_word(std::string_view text, std::string_view also_allowed) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           also_allowed.find(c) != std::string_view::npos;
  });
}

std::string read_hostname(const std::string& name) {
  if (!is_word(name, "-.") || name.size() > 253) {
    throw std::runtime_error("hostname: \"" + name + "\" is not a host name");
  }
  return name;
}

SeedUser read_user(const Json& user) {
  SeedUser out;
  // cloud-init's "default" means the distribution's own user, which here is root.
  if (user.is(Json::Type::String) && user.string("users") == "default") {
    out.name = "root";
    return out;
  }
  (void)user.object("users[]");
  out.name = optional_string(user, "name");
  if (!is_word(out.name, "-_.") || out.name[0] == '-' || out.name.size() > 32) {
    throw std::runtime_error("users[].name: \"" + out.name + "\" is not a login name");
  }
  if (const Json* keys = user.find("ssh_authorized_keys")) {
    out.authorized_keys = keys->strings("users[].ssh_authorized_keys");
  }
  return out;
}

mode_t read_permissions(const std::string& text) {
  const bool octal = std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '7'; });
  if (text.empty() || text.size() > 5 || !octal) {
    throw std::runtime_error("write_files[].permissions: \"" + text + "\" is not an octal number");
  }
  return static_cast<mode_t>(std::stoul(text, nullptr, 8)) & 07777;
}

SeedFile read_file_entry(const Json& file) {
  (void)file.object("write_files[]");
  SeedFile out;
  out.path = optional_string(file, "path");
  if (out.path.empty() || out.path[0] != '/' || out.path.find('\0') != std::string::npos) {
    throw std::runtime_error("write_files[].path: \"" + out.path + "\" is not an absolute path");
  }
  out.content = optional_string(file, "content");
  const std::string encoding = optional_string(file, "encoding");
  if (encoding == "b64" || encoding == "base64") {
    std::optional<std::string> decoded = decode_base64(out.content);
    if (!decoded) {
      throw std::runtime_error("write_files[].content of " + out.path + " is not Base64");
    }
    out.content = std::move(*decoded);
  } else if (!encoding.empty() && encoding != "text/plain") {
    throw std::runtime_error("write_files[].encoding \"" + encoding + "\" of " + out.path + " is not b64");
  }
  if (const Json* permissions = file.find("permissions")) {
    out.permissions = read_permissions(permissions->string("write_files[].permissions"));
  }
  if (const Json* append = file.find("append")) {
    out.append = append->boolean("write_files[].append");
  }
  out.owner = optional_string(file, "owner");
  return out;
}

void read_user_data(std::string_view text, Seed& seed) {
  if (text.substr(0, kUserDataHeader.size()) != kUserDataHeader) {
    throw std::runtime_error("the first line is not #cloud-config");
  }
  text.remove_prefix(std::min(text.find('\n'), text.size()));
  const Json data = Json::parse(text);
  (void)data.object("the document");
  if (const Json* name = data.find("hostname")) {
    seed.hostname = read_hostname(name->string("hostname"));
  }
  if (const Json* users = data.find("users")) {
    for (const Json& user : users->array("users")) {
      seed.users.push_back(read_user(user));
    }
  }
  if (const Json* keys = data.find("ssh_keys")) {
    (void)keys->object("ssh_keys");
    seed.host_key = optional_string(*keys, "ed25519_private");
  }
  if (const Json* files = data.find("write_files")) {
    for (const Json& file : files->array("write_files")) {
      seed.files.push_back(read_file_entry(file));
    }
  }
  if (const Json* commands = data.find("runcmd")) {
    for (const Json& command : commands->array("runcmd")) {
      // A bare string is plumbing for cloud-init.
      if (!command.is(Json::Type::String)) {
        seed.commands.push_back(command.strings("runcmd[]"));
        if (seed.commands.back().empty()) {
          throw std::runtime_error("runcmd[] is an empty list");
        }
      }
    }
  }
}

std::string read_destination(const std::string& to, const std::string& via) {
  if (to == "default" || to == "0/0") {
    return via.find(':') == std::string::npos ? "0.0.0.0/0" : "::/0";
  }
  return to;
}

SeedCard read_card(const std::string& label, const Json& card) {
  (void)card.object("ethernets." + label);
  SeedCard out;
  out.label = label;
  if (const Json* match = card.find("match")) {
    out.mac = optional_string(*match, "macaddress");
    std::transform(out.mac.begin(), out.mac.end(), out.mac.begin(), [](char c) { return c >= 'A' && c <= 'F' ? c | 0x20 : c; });
  }
  if (const Json* dhcp = card.find("dhcp4")) {
    out.dhcp4 = dhcp->boolean("dhcp4");
  }
  if (const Json* addresses = card.find("addresses")) {
    out.addresses = addresses->strings("addresses");
  }
  if (const Json* gateway = card.find("gateway4")) {
    out.routes.push_back({"0.0.0.0/0", gateway->string("gateway4")});
  }
  if (const Json* routes = card.find("routes")) {
    for (const Json& route : routes->array("routes")) {
      const std::string via = optional_string(route, "via");
      out.routes.push_back({read_destination(optional_string(route, "to"), via), via});
    }
  }
  if (const Json* nameservers = card.find("nameservers")) {
    if (const Json* addresses = nameservers->find("addresses")) {
      out.nameservers = addresses->strings("nameservers.addresses");
    }
  }
  return out;
}

std::vector<SeedCard> read_network_config(std::string_view text) {
  const Json document = Json::parse(text);
  const Json* wrapped = document.find("network");
  const Json& network = wrapped == nullptr ? document : *wrapped;
  std::vector<SeedCard> cards;
  if (const Json* ethernets = network.find("ethernets")) {
    for (const auto& [label, card] : ethernets->object("ethernets")) {
      cards.push_back(read_card(label, card));
    }
  }
  return cards;
}

void read_meta_data(std::string_view text, Seed& seed) {
  const Json data = Json::parse(text);
  seed.instance_id = optional_string(data, "instance-id");
  if (const Json* name = data.find("local-hostname")) {
    seed.hostname = read_hostname(name->string("local-hostname"));
  }
}

/// Runs `read` and puts the file's name in front of what goes wrong in it.
template <typename Read>
void in_file(const char* name, Read&& read) {
  try {
    read();
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string("seed ") + name + ": " + error.what());
  }
}

}  // namespace

Seed parse_seed(const SeedTexts& texts) {
  Seed seed;
  in_file("meta-data", [&] { read_meta_data(texts.meta_data, seed); });
  in_file("user-data", [&] { read_user_data(texts.user_data, seed); });
  if (texts.network_config) {
    in_file("network-config", [&] { seed.cards = read_network_config(*texts.network_config); });
  }
  return seed;
}

}  // namespace vmtest::guest
