#include "guest/readdress.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <stdexcept>

#include "guest/files.h"
#include "guest/netlink.h"
#include "guest/setup.h"

namespace vmtest::guest {
namespace {

/// The four members, a line each.
constexpr const char* kChangeFile = "/var/lib/vmtest/address-change";
constexpr const char* kFolders[] = {"/etc/netplan", "/etc/systemd/network", "/run/systemd/network", "/etc/network/interfaces.d"};
constexpr const char* kInterfacesFile = "/etc/network/interfaces";

std::string without_prefix(const std::string& address) { return address.substr(0, address.find('/')); }

unsigned interface_with(const std::string& address) {
  unsigned index = 0;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) {
    fail_errno("cannot list the addresses");
  }
  for (const ifaddrs* entry = list; entry != nullptr && index == 0; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) {
      continue;
    }
    char text[INET_ADDRSTRLEN] = "";
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr, text, sizeof text);
    if (address == text) {
      index = if_nametoindex(entry->ifa_name);
    }
  }
  freeifaddrs(list);
  return index;
}

std::optional<AddressChange> remembered_change() {
  const std::string text = find_file(kChangeFile).value_or("");
  std::vector<std::string> lines;
  for (std::size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    lines.push_back(text.substr(at, end - at));
  }
  if (lines.size() != 4) {
    return std::nullopt;
  }
  return AddressChange{lines[0], lines[1], lines[2], lines[3]};
}

/// A guest whose power fails must not come back with its parent's address.
void write_through(const std::string& path, std::string_view content, mode_t permissions) {
  write_file(path, content, permissions);
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file || fsync(file.get()) != 0) {
    fail_errno("cannot bring " + path + " to the disk");
  }
}

void change_file(const std::string& path, const AddressChange& change) {
  const std::optional<std::string> before = find_file(path);
  if (!before) {
    return;
  }
  std::string after = replace_address(*before, without_prefix(change.old_address), without_prefix(change.new_address));
  if (!change.old_gateway.empty()) {
    after = replace_address(after, change.old_gateway, change.new_gateway);
  }
  struct stat info {};
  if (after != *before && stat(path.c_str(), &info) == 0) {
    write_through(path, after, info.st_mode & 07777U);
  }
}

}  // namespace

std::string replace_address(std::string_view text, std::string_view old_address, std::string_view new_address) {
  const auto continues = [&](std::size_t at) {
    return at < text.size() && (std::isdigit(static_cast<unsigned char>(text[at])) != 0 || text[at] == '.');
  };
  std::string result;
  std::size_t at = 0;
  for (std::size_t hit = 0; (hit = text.find(old_address, at)) != std::string_view::npos; at = hit + old_address.size()) {
    const bool alone = (hit == 0 || !continues(hit - 1)) && !continues(hit + old_address.size());
    result += text.substr(at, hit - at);
    result += alone ? new_address : old_address;
  }
  return result + std::string(text.substr(at));
}

void readdress(const AddressChange& change) {
  const unsigned interface = interface_with(without_prefix(change.old_address));
  if (interface == 0) {
    throw std::runtime_error("no interface has the address " + change.old_address);
  }
  Netlink netlink;
  netlink.remove_address(interface, change.old_address);
  netlink.add_address(interface, change.new_address);
  if (!change.new_gateway.empty()) {
    netlink.replace_route(interface, "0.0.0.0/0", change.new_gateway);
  }
  for (const char* folder : kFolders) {
    for (const std::string& name : list_folder(folder)) {
      change_file(std::string(folder) + "/" + name, change);
    }
  }
  change_file(kInterfacesFile, change);
  if (reads_seed_at_each_boot()) {
    // The seed has the address of the first guest, however many forks ago.
    const AddressChange first = remembered_change().value_or(change);
    write_through(kChangeFile,
                  first.old_address + "\n" + change.new_address + "\n" + first.old_gateway + "\n" + change.new_gateway + "\n",
                  0644);
  }
}

void apply_remembered_change(std::optional<std::vector<SeedCard>>& cards) {
  const std::optional<AddressChange> change = remembered_change();
  if (!change || !cards) {
    return;
  }
  for (SeedCard& card : *cards) {
    std::replace(card.addresses.begin(), card.addresses.end(), change->old_address, change->new_address);
    for (SeedRoute& route : card.routes) {
      if (route.via == change->old_gateway) {
        route.via = change->new_gateway;
      }
    }
  }
}

}  // namespace vmtest::guest
