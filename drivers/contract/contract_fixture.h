#pragma once

// What every driver promises, tried on each: what the files of that suite share.

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "failure.h"
#include "subject.h"
#include "vmtest/error.h"
#include "vmtest/host/directories.h"
#include "vmtest/host/file_descriptor.h"
#include "vmtest/host/process.h"
#include "vmtest/host/text.h"
#include "wait.h"

namespace vmtest::contract {

namespace fs = std::filesystem;
using namespace std::chrono_literals;  // NOLINT(google-global-names-in-headers)
using testing::failure_of;
using testing::wait_until;

/// What tests wait for is there at once, unless the host is busy.
inline Deadline soon() { return Deadline::after(20s); }

class DriverContract : public ::testing::TestWithParam<Subject> {
 protected:
  void SetUp() override {
    driver_ = GetParam().make();
    if (const auto why = driver_->unavailable_reason()) GTEST_SKIP() << *why;
    const Support tap = driver_->support(Capability::Tap);
    if (GetParam().nic == NicKind::Tap && !tap.supported()) GTEST_SKIP() << tap.why;
  }
  void TearDown() override {
    for (const VmHandle& vm : vms_) driver_->destroy(vm);
  }

  [[nodiscard]] PrepareRequest request(const std::string& name = "probe") const {
    PrepareRequest request;
    request.name = name;
    request.vms_dir = folder_.path() / "vms";
    request.nics = {{.kind = GetParam().nic, .mac_address = mac_address_}};
    request.ssh_port = ssh_port_;
    return request;
  }
  [[nodiscard]] MachineConfig machine() const {
    MachineConfig machine = GetParam().machine;
    machine.nics = request().nics;
    return machine;
  }
  VmHandle prepare(const std::string& name = "probe") {
    vms_.push_back(driver_->prepare(request(name)));
    return vms_.back();
  }
  VmHandle start() { return driver_->start(prepare(), machine()); }
  VmHandle start_with_ports() {
    MachineConfig with_ports = machine();
    with_ports.hotplug_ports = 2;
    return driver_->start(prepare(), with_ports);
  }
  VmHandle start_with_room() {
    MachineConfig with_room = machine();
    with_room.max_vcpus = 3;
    with_room.max_memory_mib = with_room.memory_mib + 128;
    return driver_->start(prepare(), with_room);
  }
  /// An empty disk for the first port.
  [[nodiscard]] DiskConfig disk(const std::string& id) const {
    const fs::path file = folder_.path() / (id + ".raw");
    write_file(file, std::string(1 << 20, '\0'), 0600);
    return {.path = file, .format = DiskFormat::Raw, .id = id, .hotplug_port = 0};
  }
  /// A card for that port.
  [[nodiscard]] static NicConfig card(unsigned port) {
    return {.kind = NicKind::Tap, .mac_address = "52:54:00:12:34:6" + std::to_string(port), .hotplug_port = port};
  }
  /// A machine that can be frozen, whose guest answers where it can, with its memory where those that go on share it. Once in a
  /// test: there is one memory file.
  [[nodiscard]] MachineConfig freezable() const {
    MachineConfig freezable = GetParam().echoes ? GetParam().printing : GetParam().machine;
    freezable.nics = request().nics;
    TemplateFacet& templates = *driver_->templates();
    // Where two guests of one MAC address would meet.
    if (templates.obstacle(freezable)) freezable.nics.clear();
    if (templates.shares_memory()) freezable.memory_file = MemoryFile{folder_.path() / "memory", MemoryFile::Mapping::Shared};
    return freezable;
  }
  /// One that goes on from a frozen state of that.
  [[nodiscard]] MachineConfig continued(const fs::path& state_file) const {
    MachineConfig continued = freezable();
    if (continued.memory_file) continued.memory_file->mapping = MemoryFile::Mapping::Private;
    continued.restore_from = state_file;
    return continued;
  }
  void crash(const VmHandle& vm) {
    GetParam().crash(*driver_, vm);
    ASSERT_TRUE(driver_->wait_exit(vm, 20s)) << "it goes on";
  }
  /// A VM in that state.
  VmHandle in(VmState state) {
    const VmHandle vm = prepare();
    if (state == VmState::Prepared) return vm;
    if (state == VmState::Destroyed) {
      driver_->destroy(vm);
      return vm;
    }
    (void)driver_->start(vm, machine());
    if (state == VmState::Suspended) (void)driver_->suspend(vm);
    if (state == VmState::Stopped) (void)driver_->stop(vm, 0ms);
    if (state == VmState::Failed) crash(vm);
    return vm;
  }

  [[nodiscard]] bool pauses() const { return driver_->support(Capability::PauseResume).supported(); }
  /// The states that VMs of this driver can rest in.
  [[nodiscard]] std::vector<VmState> resting_states() const {
    std::vector<VmState> states = {VmState::Prepared, VmState::Running, VmState::Stopped, VmState::Destroyed};
    if (GetParam().cannot_crash.empty()) states.push_back(VmState::Failed);
    if (pauses()) states.push_back(VmState::Suspended);
    return states;
  }

  TemporaryDirectory folder_;
  std::unique_ptr<Driver> driver_;
  std::vector<VmHandle> vms_;
  /// No other test's: a driver may find the guest's address by it.
  const std::string mac_address_ = random_mac();
  /// A port asked for instead of the driver's own choice.
  std::optional<std::uint16_t> ssh_port_;
};

}  // namespace vmtest::contract
