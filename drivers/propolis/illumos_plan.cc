#include "illumos_plan.h"

#include "vmtest/error.h"

namespace vmtest::propolis {
namespace {

/// zonecfg reads a small language: a word of it must be one.
const std::string& word(const std::string& text, const char* what) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' ||
           c == '/';
  };
  for (const char c : text) {
    if (!plain(c)) throw Error(std::string(what) + " \"" + text + "\" has a character that zonecfg would not take as it is");
  }
  if (text.empty()) throw Error(std::string("a zone needs a ") + what);
  return text;
}

}  // namespace

std::vector<Step> vnic_steps(const LinkPlan& link, const std::string& over) {
  std::vector<Step> steps = {{{"dladm", "create-vnic", "-t", "-l", over, "-m", link.mac_address, link.name},
                              {"dladm", "delete-vnic", "-t", link.name},
                              {"dladm", "show-vnic", "-p", "-o", "link"},
                              link.name}};
  if (!link.host_address.empty()) {
    const std::string object = over + "/" + link.name;
    steps.push_back({{"ipadm", "create-addr", "-t", "-T", "static", "-a", link.host_address, object},
                     {"ipadm", "delete-addr", object},
                     {"ipadm", "show-addr", "-p", "-o", "addrobj"},
                     object});
  }
  return steps;
}

std::vector<Step> zone_steps(const ZonePlan& plan) {
  const std::string configuration =
      "create -b; set brand=" + word(plan.brand, "brand") + "; set zonepath=" + word(plan.zonepath.string(), "zonepath") +
      "; set ip-type=exclusive; add net; set physical=" + word(plan.vnic, "VNIC") +
      "; end; add device; set match=" + word(volume_device(plan.dataset).string(), "dataset") + "; end; commit";
  // A zone that is not configured any more is neither installed nor running.
  const std::vector<std::string> zones = {"zoneadm", "list", "-c"};
  return {
      {{"zfs", "clone", plan.snapshot, plan.dataset},
       {"zfs", "destroy", "-r", plan.dataset},
       {"zfs", "list", "-H", "-o", "name", "-t", "volume"},
       plan.dataset},
      {{"zonecfg", "-z", plan.zone, configuration}, {"zonecfg", "-z", plan.zone, "delete", "-F"}, zones, plan.zone},
      {{"zoneadm", "-z", plan.zone, "install"}, {"zoneadm", "-z", plan.zone, "uninstall", "-F"}, zones, plan.zone},
      {{"zoneadm", "-z", plan.zone, "boot"}, {"zoneadm", "-z", plan.zone, "halt"}, zones, plan.zone},
  };
}

std::filesystem::path volume_device(const std::string& dataset) { return std::filesystem::path("/dev/zvol/rdsk") / dataset; }

}  // namespace vmtest::propolis
