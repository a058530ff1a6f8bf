#pragma once

#import <Virtualization/Virtualization.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "nat_network.h"
#include "vmtest/host/file_descriptor.h"

namespace vmtest::vz::standin {

/// What QEMU is started with for a configuration.
struct VmDescription {
  std::vector<std::string> arguments;
  /// Descriptors QEMU gets: (ours, its number).
  std::vector<std::pair<int, int>> descriptors;
  /// Our ends of what QEMU got the other end of.
  FileDescriptor monitor;
  /// The guest's port org.vmtest.agent, which stands for vsock port 5252. Invalid when the VM has no vsock.
  FileDescriptor agent;
  /// QEMU's ends, to be closed once it runs.
  std::vector<FileDescriptor> ends;
  /// What must be there as long as the machine.
  std::vector<std::shared_ptr<NatNetwork>> networks;
  /// Commands of the monitor that complete the machine before it runs: (name, arguments).
  std::vector<std::pair<std::string, nlohmann::json>> commands;
};

/// Throws vmtest::Unsupported for what the stand-in cannot run, although the framework takes it.
[[nodiscard]] VmDescription describe(VZVirtualMachineConfiguration* configuration);
/// A block node over an attachment, as QEMU's blockdev-add takes it: driver=...,node-name=... options.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> block_node(VZStorageDeviceAttachment* attachment,
                                                                          const std::string& node);

}  // namespace vmtest::vz::standin
