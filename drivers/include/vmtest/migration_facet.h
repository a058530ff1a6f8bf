#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "vmtest/deadline.h"
#include "vmtest/machine_config.h"
#include "vmtest/vm_handle.h"

namespace vmtest {

/// What a live migration took, in the hypervisor's own count. What it does not tell is left out.
struct MigrationReport {
  /// From the request until the guest went on.
  std::chrono::milliseconds total{0};
  /// How long the guest stood still.
  std::optional<std::chrono::milliseconds> downtime = {};
  /// Bytes of guest memory that were sent, those sent again because the guest wrote to them included.
  std::optional<std::uint64_t> memory_bytes = {};
};

/// What a driver offers that can move a running guest into another process of its hypervisor: Driver::migration(). The same rules
/// on threads as for Driver.
class MigrationFacet {
 public:
  virtual ~MigrationFacet() = default;
  MigrationFacet() = default;
  MigrationFacet(const MigrationFacet&) = delete;
  MigrationFacet& operator=(const MigrationFacet&) = delete;

  /// Running -> Running. Starts a second process for the same machine on this host, sends the guest over while it runs, and ends
  /// the first. Disks, console, sockets and the handle stay what they are; nobody who waits for the VM's end is told of one.
  /// `machine` is the machine as it is now, with what was plugged in. On a user-mode network the host's connections to the guest
  /// end, since they lived in the first process; on a TAP they go on.
  ///
  /// Throws Unsupported for a machine that cannot be moved, Error with the hypervisor's words, Timeout: the guest goes on in the
  /// first process then, and the second one is gone.
  virtual MigrationReport migrate(const VmHandle& vm, const MachineConfig& machine, const Deadline& deadline) = 0;
};

}  // namespace vmtest
