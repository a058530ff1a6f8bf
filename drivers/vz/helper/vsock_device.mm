#include "vsock_device.h"

#include <chrono>
#include <memory>

#include "completion.h"
#include "descriptor.h"
#include "foundation.h"

@interface VmtestSocketDelegate : NSObject <VZVirtioSocketListenerDelegate> {
 @public
  vmtest::vz::VsockProxy* proxy_;
}
@end

@implementation VmtestSocketDelegate
- (BOOL)listener:(VZVirtioSocketListener*)listener
    shouldAcceptNewConnection:(VZVirtioSocketConnection*)connection
             fromSocketDevice:(VZVirtioSocketDevice*)socketDevice {
  (void)listener;
  (void)socketDevice;
  try {
    // The connection closes its own descriptor.
    return proxy_->take_guest_connection([connection destinationPort], vmtest::vz::duplicate([connection fileDescriptor]));
  } catch (const std::exception&) {
    return NO;
  }
}
@end

namespace vmtest::vz {
namespace {

constexpr std::chrono::seconds kConnectTime{30};

/// What a completion handler leaves.
struct Connected {
  Completion completion;
  VsockProxy::Connection connection;
};

}  // namespace

VsockDevice::VsockDevice(const Vsock& config, VZVirtualMachine* machine, SerialQueue& queue) : config_(config), queue_(queue) {
  queue_.sync(
      [&] { device_ = Handle<VZVirtioSocketDevice*>::share((VZVirtioSocketDevice*)[[machine socketDevices] objectAtIndex:0]); });
  // Clients can come from here on.
  proxy_.emplace(config_.socket, [this](std::uint32_t port) { return connect(port); });
  delegate_ = adopt([[VmtestSocketDelegate alloc] init]);
  delegate_.get()->proxy_ = &*proxy_;
  listener_ = adopt([[VZVirtioSocketListener alloc] init]);
  [listener_.get() setDelegate:delegate_.get()];
  queue_.sync([&] {
    for (const std::uint32_t port : config_.listen_ports) [device_.get() setSocketListener:listener_.get() forPort:port];
  });
}

VsockDevice::~VsockDevice() {
  // After this nobody calls the delegate any more.
  queue_.sync([&] {
    for (const std::uint32_t port : config_.listen_ports) [device_.get() removeSocketListenerForPort:port];
  });
}

VsockProxy::Connection VsockDevice::connect(std::uint32_t port) {
  const auto connected = std::make_shared<Connected>();
  queue_.sync([&] {
    [device_.get() connectToPort:port
               completionHandler:^(VZVirtioSocketConnection* connection, NSError* error) {
                 if (connection != nil) {
                   try {
                     connected->connection = {duplicate([connection fileDescriptor]), [connection sourcePort]};
                   } catch (const std::exception&) {
                     // Without a descriptor, which is noticed below.
                   }
                   [connection close];
                 }
                 connected->completion.finish(error);
               }];
  });
  connected->completion.wait("connecting to port " + std::to_string(port), kConnectTime);
  if (!connected->connection.stream) throw ApiError(kFailed, "no descriptor is left for the connection");
  return std::move(connected->connection);
}

}  // namespace vmtest::vz
