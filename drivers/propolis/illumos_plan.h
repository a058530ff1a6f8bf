#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "host_plan.h"

namespace vmtest::propolis {

/// A VNIC over a link of the host: dladm(8). The host's address goes to the link, since the MAC layer connects VNICs with what
/// they are over: ipadm(8).
[[nodiscard]] std::vector<Step> vnic_steps(const LinkPlan& link, const std::string& over);

/// A zone that runs propolis-server for one VM, of a brand whose boot starts it.
struct ZonePlan {
  std::string zone;
  std::string brand;
  std::filesystem::path zonepath;
  /// The zone's own from its boot to its halt.
  std::string vnic;
  /// A snapshot, "rpool/images/tiny@latest", and the clone of it that is the VM's root disk, "rpool/vms/t1".
  std::string snapshot;
  std::string dataset;
};

/// The clone, then the zone: zfs(8), zonecfg(8), zoneadm(8). The VNIC must be there before.
[[nodiscard]] std::vector<Step> zone_steps(const ZonePlan& plan);
/// Where a volume's device is.
[[nodiscard]] std::filesystem::path volume_device(const std::string& dataset);

}  // namespace vmtest::propolis
