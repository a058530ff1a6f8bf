#include "settings.h"

#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <string_view>
#include <system_error>
#include <vector>

#include "supervisor_paths.h"
#include "vmtest/error.h"
#include "vmtest/host/process.h"
#include "vmtest/host/program_files.h"
#include "vmtest/host/text.h"
#include "vmtest/supervisor.h"

namespace vmtest::propolis {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "VMTEST_PROPOLIS";
constexpr const char* kProgram = "propolis-server";
constexpr std::uintmax_t kPage = 4096;
constexpr std::uintmax_t kLongestRom = 2U << 20;
constexpr std::string_view kUrl = "http://";
constexpr std::string_view kZone = "zone:";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string required(const char* name, const char* what) {
  std::string value = variable(name);
  if (value.empty()) throw Error(std::string("a server in a zone needs ") + name + ": " + what);
  return value;
}

fs::path find_bootrom() {
  if (const std::string named = variable("VMTEST_PROPOLIS_BOOTROM"); !named.empty()) {
    check_bootrom(named);
    return fs::absolute(named);
  }
  // Where Propolis' own package has the build of edk2 that goes with it, then Debian's.
  const std::vector<fs::path> places = {"/opt/oxide/propolis-server/blob/OVMF_CODE.fd", "/usr/share/ovmf/OVMF.fd"};
  std::string tried;
  for (const fs::path& place : places) {
    if (fs::exists(place)) {
      check_bootrom(place);
      return place;
    }
    tried += "\n  " + place.string();
  }
  throw Error("there is no boot ROM for Propolis; set VMTEST_PROPOLIS_BOOTROM to one, or install Debian's ovmf. Looked at:" +
              tried);
}

fs::path find_server(const std::string& named) {
  if (!named.empty()) {
    if (::access(named.c_str(), X_OK) != 0 || fs::is_directory(named))
      throw Error(std::string(kVariable) + "=" + named + " is no program");
    return fs::absolute(named);
  }
  if (const auto found = find_program(kProgram)) return *found;
  throw Error(std::string("Propolis is not installed: ") + kProgram + " is not in PATH and " + kVariable +
              " names none; it runs on illumos");
}

}  // namespace

void parse_address(const std::string& text, const std::string& what, std::string& host, std::uint16_t& port) {
  const std::size_t colon = text.rfind(':');
  const std::string number = colon == std::string::npos ? "" : text.substr(colon + 1);
  host = text.substr(0, colon == std::string::npos ? 0 : colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  unsigned value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  const bool whole = error == std::errc() && end == number.data() + number.size();
  if (!whole || value < 1 || value > 65535 || !is_ip_address(host)) {
    throw Error(what + " is no address and port such as 127.0.0.1:12400");
  }
  port = static_cast<std::uint16_t>(value);
}

void check_bootrom(const fs::path& bootrom) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(bootrom, error);
  if (error) throw Error("the boot ROM " + bootrom.string() + " cannot be used: " + error.message());
  if (size == 0 || size % kPage != 0 || size > kLongestRom) {
    throw Error("the boot ROM " + bootrom.string() + " has " + std::to_string(size) +
                " bytes; Propolis takes at most 2 MiB, in whole pages of 4096 bytes (Debian's OVMF_CODE_4M.fd is too long, its "
                "/usr/share/ovmf/OVMF.fd fits)");
  }
}

Settings read_settings() {
  Settings settings;
  settings.link = variable("VMTEST_PROPOLIS_LINK");
  const std::string wish = variable(kVariable);
  if (wish.rfind(kUrl, 0) == 0) {
    settings.source = Settings::Source::Running;
    std::string address = wish.substr(kUrl.size());
    if (!address.empty() && address.back() == '/') address.pop_back();
    parse_address(address, std::string(kVariable) + "=" + wish, settings.host, settings.port);
    return settings;
  }
  if (wish.rfind(kZone, 0) == 0) {
    settings.source = Settings::Source::Zone;
    settings.brand = wish.substr(kZone.size());
    if (settings.brand.empty()) throw Error(std::string(kVariable) + "=zone: names no brand");
    const std::string address = required("VMTEST_PROPOLIS_ADDRESS", "the address and port of the server");
    parse_address(address, "VMTEST_PROPOLIS_ADDRESS=" + address, settings.host, settings.port);
    settings.snapshot = required("VMTEST_PROPOLIS_SNAPSHOT", "the snapshot of the image's volume, rpool/images/NAME@latest");
    settings.dataset = required("VMTEST_PROPOLIS_DATASET", "the file system for the VMs' disks, rpool/vms");
    (void)required("VMTEST_PROPOLIS_LINK", "the link that VNICs are made over");
    for (const char* program : {"zfs", "zonecfg", "zoneadm", "dladm"}) {
      if (!find_program(program)) throw Error(std::string(program) + " is not in PATH; zones are illumos'");
    }
    return settings;
  }
  settings.program = find_server(wish);
  settings.bootrom = find_bootrom();
  return settings;
}

fs::path find_keeper() {
  std::vector<fs::path> places = {kInstalledLibexec, kBuildTree};
  try {
    // An installation that was moved has both in one folder, and its tests are told where the supervisor is.
    places.insert(places.begin(), find_supervisor().parent_path());
  } catch (const Error&) {  // whoever needs it is told
  }
  return find_own_program("vmtest-propolis-keeper", "VMTEST_PROPOLIS_KEEPER", places);
}

}  // namespace vmtest::propolis
