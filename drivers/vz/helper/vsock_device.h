#pragma once

#import <Virtualization/Virtualization.h>

#include <optional>

#include "objc_handle.h"
#include "serial_queue.h"
#include "vm_config.h"
#include "vsock_proxy.h"

@class VmtestSocketDelegate;

namespace vmtest::vz {

/// The guest's vsock ports by Unix sockets. Made and destroyed off the queue; must not outlive the VM.
class VsockDevice {
 public:
  VsockDevice(const Vsock& config, VZVirtualMachine* machine, SerialQueue& queue);
  VsockDevice(const VsockDevice&) = delete;
  VsockDevice& operator=(const VsockDevice&) = delete;
  ~VsockDevice();

 private:
  [[nodiscard]] VsockProxy::Connection connect(std::uint32_t port);

  Vsock config_;
  SerialQueue& queue_;
  Handle<VZVirtioSocketDevice*> device_;
  Handle<VmtestSocketDelegate*> delegate_;
  Handle<VZVirtioSocketListener*> listener_;
  std::optional<VsockProxy> proxy_;
};

}  // namespace vmtest::vz
