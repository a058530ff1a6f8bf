#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmtest/supervised_driver.h"

namespace vmtest {

/// Drives Propolis (https://github.com/oxidecomputer/propolis) by its server's API, version 5.0.0 or 1.0.0. A server serves one
/// VM at a time and does not end with it, so a program of ours stands between supervisor and server, vmtest-propolis-keeper,
/// which is one run of one VM. Guests are x86_64 and boot by UEFI; a kernel is started from a small disk that is made for it.
///
/// VMTEST_PROPOLIS says where the server comes from:
/// - a path, or nothing: that program, or `propolis-server` in PATH, is started for each run;
/// - http://ADDRESS:PORT: one that somebody else runs there, for one VM after another;
/// - zone:BRAND: one in a zone of that brand, whose boot starts it, reached at VMTEST_PROPOLIS_ADDRESS; the root disk is a
///   clone of the snapshot VMTEST_PROPOLIS_SNAPSHOT in the file system VMTEST_PROPOLIS_DATASET.
///
/// VMTEST_PROPOLIS_BOOTROM is the boot ROM, else where Propolis' package or Debian's ovmf have theirs. On illumos a card is on a
/// VNIC over VMTEST_PROPOLIS_LINK; elsewhere, where the server is a simulated one, on a TAP.
///
/// The API has no pause, no power button and no snapshot: a guest is stopped from within or not asked.
///
/// Files in the VM's work folder: handle.json, command_line.txt, plan.json (the keeper's orders), instance.json (what the server
/// was asked to make), console.log, propolis-keeper.log, propolis-server.log. Sockets in its runtime folder: console.sock.
class PropolisDriver final : public SupervisedDriver {
 public:
  PropolisDriver();

  [[nodiscard]] std::optional<std::string> unavailable_reason() const override;
  [[nodiscard]] DiskNeeds disk_needs() const override;
  [[nodiscard]] Support support(Capability capability) const override;
  [[nodiscard]] ConsoleEndpoint console_endpoint(const VmHandle& vm) const override;

  /// Journals of what runs did to the host (VNICs, zones, clones, an instance elsewhere) and nobody took back, because it could
  /// not be (a clone is busy), or keeper and supervisor were both killed. The next run takes it back as well.
  [[nodiscard]] static std::vector<std::filesystem::path> leftovers();
  /// Takes back what one of them says. Throws Error with what could not be taken back.
  static void take_back(const std::filesystem::path& journal);

 private:
  [[nodiscard]] std::unique_ptr<SupervisedVm> make_vm(const VmHandle& vm, std::shared_ptr<SupervisorConnection> supervisor,
                                                      Owner owner) const override;
  [[nodiscard]] HostSide take_host_side(const PrepareRequest& request) const override;
  [[nodiscard]] std::string left_behind(const VmHandle& vm) const override;
};

}  // namespace vmtest
