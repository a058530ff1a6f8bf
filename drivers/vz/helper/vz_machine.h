#pragma once

#import <Virtualization/Virtualization.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend.h"
#include "objc_handle.h"
#include "port_relay.h"
#include "serial_queue.h"
#include "unix_socket.h"
#include "vsock_device.h"

@class VmtestVmDelegate;

namespace vmtest::vz {

/// A VZVirtualMachine. The framework wants all its calls on the queue it was made with.
class VzMachine : public VirtualMachine {
 public:
  /// Makes and validates the configuration, then the VM. Throws ApiError.
  VzMachine(const VmConfig& config, const HostFacts& host, SerialQueue& queue, VmListener& listener);
  ~VzMachine() override;

  [[nodiscard]] VmInfo info() override;
  void boot() override;
  void pause() override;
  void resume() override;
  void request_stop() override;
  void stop() override;
  void save(const std::string& path) override;
  void restore(const std::string& path) override;
  void set_balloon(std::uint64_t mib) override;
  void attach_usb_disk(const Disk& disk) override;
  void detach_usb_disk(const std::string& id) override;

 private:
  void make_configuration();
  void make_machine();
  /// On the queue: throws ApiError (409) unless `can`.
  void require_state(bool can, const char* needed);
  [[nodiscard]] VZUSBController* usb_controller();
  void require_saving();

  VmConfig config_;
  HostFacts host_;
  SerialQueue& queue_;
  VmListener& listener_;
  // Outlive the VM, which writes to them.
  std::vector<std::unique_ptr<PortRelay>> relays_;
  std::vector<DatagramPair> datagrams_;
  Handle<VZVirtualMachineConfiguration*> configuration_;
  Handle<VmtestVmDelegate*> delegate_;
  Handle<VZVirtualMachine*> machine_;
  std::unique_ptr<VsockDevice> vsock_;
  using UsbDisks = std::map<std::string, Handle<VZUSBMassStorageDevice*>>;
  /// Of the queue: disks attached while the guest runs. Shared with completion handlers, which may come late.
  std::shared_ptr<UsbDisks> usb_disks_ = std::make_shared<UsbDisks>();
};

}  // namespace vmtest::vz
