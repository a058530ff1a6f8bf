#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host_facts.h"
#include "vm_config.h"

namespace vmtest::vz {

// A line per group.
// clang-format off
/// What the helper can be asked for, and what is asked of hypervisors but does not exist here.
enum class Feature {
  LinuxBoot, EfiBoot, MacOsBoot, MachineIdentifier, NestedVirtualization,
  VirtioBlk, Nvme, UsbDisk, UsbHotplug, DiskModes, Nbd, BlockDevice,
  Nat, FileHandleNic, NicMtu, BridgedNic,
  Serial, ConsolePorts, Entropy, Balloon, Vsock,
  DirectoryShare, RosettaShare,
  Graphics, MacGraphics, Audio, UsbKeyboard, UsbPointing, MacKeyboard, MacTrackpad,
  PauseResume, ForcedStop, SaveRestore,
  Tpm, Watchdog, CpuHotplug, MemoryHotplug, DiskResize, RateLimit, LiveMigration, Reboot,
};
// clang-format on

[[nodiscard]] const std::vector<Feature>& all_features();
/// Its name in host.capabilities: "efi-boot".
[[nodiscard]] std::string_view to_string(Feature feature);
/// Why the host does not have it, in a sentence that starts with what is needed; empty when it has.
[[nodiscard]] std::optional<std::string> missing_reason(Feature feature, const HostFacts& host);
/// What a VM of that configuration needs.
[[nodiscard]] std::vector<Feature> needed_features(const VmConfig& config);
/// Throws ApiError (501) with the reason when the host does not have it.
void require(Feature feature, const HostFacts& host);
/// Throws ApiError (501) with all reasons why this host cannot have such a VM, or (400) when its sizes are out of the
/// host's range.
void require_all(const VmConfig& config, const HostFacts& host);

}  // namespace vmtest::vz
