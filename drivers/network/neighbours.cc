#include "network/neighbours.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <sstream>
#include <vector>

#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"

namespace vmtest {
namespace {

namespace fs = std::filesystem;

/// `ip` answers in milliseconds.
constexpr std::chrono::seconds kToolTime{5};
/// Where distributions let dnsmasq keep its leases.
constexpr const char* kLeaseFolders[] = {"/var/lib/misc", "/var/lib/dnsmasq", "/var/lib/NetworkManager",
                                         "/var/lib/libvirt/dnsmasq"};
/// Lease files of big networks have some thousand lines.
constexpr std::size_t kMostBytes = 4U << 20;

bool same_mac(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

/// As macOS writes it: "52:54:0:a:b:c".
std::string without_leading_zeros(std::string_view mac) {
  std::string text;
  for (std::size_t i = 0; i < mac.size(); ++i) {
    const bool begins = i == 0 || mac[i - 1] == ':';
    if (!begins || mac[i] != '0' || i + 1 == mac.size() || mac[i + 1] == ':') text += mac[i];
  }
  return text;
}

fs::path bootpd_leases() {
  const char* named = std::getenv("VMTEST_DHCPD_LEASES");
  return named != nullptr && *named != '\0' ? named : "/var/db/dhcpd_leases";
}

void for_each_line(std::string_view text, const std::function<void(const std::vector<std::string>&)>& use) {
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream stream(line);
    std::vector<std::string> fields;
    for (std::string field; stream >> field;) fields.push_back(field);
    use(fields);
  }
}

bool is_ipv6(const std::string& address) { return address.find(':') != std::string::npos; }

bool is_lease_file(const fs::path& path) {
  const std::string name = path.filename().string();
  return path.extension() == ".leases" && (name.rfind("dnsmasq", 0) == 0 || path.parent_path().filename() == "dnsmasq");
}

}  // namespace

std::optional<std::string> find_in_arp_table(std::string_view text, std::string_view mac) {
  std::optional<std::string> found;
  for_each_line(text, [&](const std::vector<std::string>& fields) {
    // IP address, HW type, flags (0x0: incomplete), HW address, mask, device
    if (fields.size() >= 6 && fields[2] != "0x0" && same_mac(fields[3], mac) && is_ip_address(fields[0])) found = fields[0];
  });
  return found;
}

std::optional<std::string> find_in_neighbours(std::string_view text, std::string_view mac) {
  std::optional<std::string> found;
  for_each_line(text, [&](const std::vector<std::string>& fields) {
    // "198.18.0.2 dev vmtest0 lladdr 52:54:00:12:34:56 REACHABLE"
    const auto label = std::find(fields.begin(), fields.end(), "lladdr");
    if (label == fields.end() || std::next(label) == fields.end() || !same_mac(*std::next(label), mac)) return;
    const std::string& state = fields.back();
    if (state == "FAILED" || state == "INCOMPLETE") return;
    const std::string& address = fields.front();
    if (!is_ip_address(address) || address.rfind("fe80:", 0) == 0) return;
    if (!found || (is_ipv6(*found) && !is_ipv6(address))) found = address;
  });
  return found;
}

std::optional<std::string> find_in_bsd_arp(std::string_view text, std::string_view mac) {
  std::optional<std::string> found;
  for_each_line(text, [&](const std::vector<std::string>& fields) {
    if (fields.size() < 4 || fields[2] != "at" || fields[1].size() < 2) return;
    const std::string address = fields[1].substr(1, fields[1].size() - 2);
    if (same_mac(without_leading_zeros(fields[3]), without_leading_zeros(mac)) && is_ip_address(address)) found = address;
  });
  return found;
}

std::optional<std::string> find_in_dnsmasq_leases(std::string_view text, std::string_view mac, std::int64_t now) {
  std::optional<std::string> found;
  std::int64_t lasts = 0;
  for_each_line(text, [&](const std::vector<std::string>& fields) {
    if (fields.size() < 4 || !same_mac(fields[1], mac) || !is_ip_address(fields[2])) return;
    std::int64_t expiry = 0;
    std::istringstream number(fields[0]);
    if (!(number >> expiry)) return;
    if (expiry == 0) expiry = std::numeric_limits<std::int64_t>::max();
    if (expiry <= now || expiry < lasts) return;
    lasts = expiry;
    found = fields[2];
  });
  return found;
}

std::optional<std::string> find_in_bootpd_leases(std::string_view text, std::string_view mac, std::int64_t now) {
  constexpr std::string_view kEthernet = "1,";
  constexpr int kHexadecimal = 16;
  std::optional<std::string> found;
  std::int64_t lasts = 0;
  std::map<std::string, std::string> block;
  for_each_line(text, [&](const std::vector<std::string>& fields) {
    if (fields.size() != 1) return;
    const std::string& field = fields.front();
    if (field == "{") block.clear();
    if (const std::size_t equals = field.find('='); equals != std::string::npos) {
      block[field.substr(0, equals)] = field.substr(equals + 1);
    }
    if (field != "}") return;
    const std::string& hardware = block["hw_address"];
    const std::string& address = block["ip_address"];
    if (hardware.rfind(kEthernet, 0) != 0 || !is_ip_address(address)) return;
    const std::string_view theirs = std::string_view(hardware).substr(kEthernet.size());
    if (!same_mac(without_leading_zeros(theirs), without_leading_zeros(mac))) return;
    const std::int64_t expiry = std::strtoll(block["lease"].c_str(), nullptr, kHexadecimal);
    if (expiry <= now || expiry < lasts) return;
    lasts = expiry;
    found = address;
  });
  return found;
}

std::optional<std::string> find_address_of(std::string_view mac) {
  try {
    const std::string leases = read_file_tail(bootpd_leases(), kMostBytes);
    if (auto found = find_in_bootpd_leases(leases, mac, std::time(nullptr))) return found;
  } catch (const std::exception&) {  // it is macOS' file
  }
  try {
    if (auto found = find_in_arp_table(read_file("/proc/net/arp"), mac)) return found;
  } catch (const std::exception&) {  // a kernel without IPv4's table: `ip` knows
  }
  try {
    const ToolResult result = exec_tool({"ip", "neigh", "show"}, Deadline::after(kToolTime));
    if (auto found = find_in_neighbours(result.out, mac)) return found;
  } catch (const std::exception&) {  // no iproute2: this may be macOS
    try {
      const ToolResult result = exec_tool({"arp", "-an"}, Deadline::after(kToolTime));
      if (auto found = find_in_bsd_arp(result.out, mac)) return found;
    } catch (const std::exception&) {  // the lease files may know
    }
  }
  for (const char* folder : kLeaseFolders) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
      if (!is_lease_file(entry.path())) continue;
      if (auto found = find_in_dnsmasq_leases(read_file_tail(entry.path(), kMostBytes), mac, std::time(nullptr))) return found;
    }
  }
  return std::nullopt;
}

}  // namespace vmtest
