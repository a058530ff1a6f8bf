#include "network.h"

#include <sys/socket.h>

#include "foundation.h"

namespace vmtest::vz {
namespace {

constexpr unsigned kDefaultMtu = 1500;

Handle<VZNetworkDeviceAttachment*> make_frames_attachment(int fd, unsigned mtu) {
  int type = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_DGRAM) {
    throw ApiError(kBadRequest, "nics: descriptor " + std::to_string(fd) + " is no datagram socket");
  }
  const auto handle = adopt([[NSFileHandle alloc] initWithFileDescriptor:fd closeOnDealloc:NO]);
  const auto attachment = adopt([[VZFileHandleNetworkDeviceAttachment alloc] initWithFileHandle:handle.get()]);
  // Systems before the property have the default.
  if (mtu != kDefaultMtu) [attachment.get() setMaximumTransmissionUnit:mtu];
  return Handle<VZNetworkDeviceAttachment*>::share(attachment.get());
}

Handle<VZNetworkDeviceAttachment*> make_bridged_attachment(const std::string& name) {
  NSArray* const interfaces = [VZBridgedNetworkInterface networkInterfaces];
  std::string list;
  for (NSUInteger i = 0; i < [interfaces count]; ++i) {
    VZBridgedNetworkInterface* const interface = [interfaces objectAtIndex:i];
    const std::string identifier = to_text([interface identifier]);
    if (identifier == name) {
      return adopt<VZNetworkDeviceAttachment*>([[VZBridgedNetworkDeviceAttachment alloc] initWithInterface:interface]);
    }
    list += (list.empty() ? "" : ", ") + identifier;
  }
  throw ApiError(kBadRequest,
                 "nics: there is no interface '" + name + "' to bridge to; there are: " + (list.empty() ? "none" : list));
}

Handle<VZNetworkDeviceAttachment*> make_attachment(const Nic& nic, std::vector<DatagramPair>& sockets) {
  switch (nic.kind) {
    case Nic::Kind::FileHandle:
      return make_frames_attachment(nic.descriptor, nic.mtu);
    case Nic::Kind::Socket:
      sockets.push_back(connect_datagram(nic.local, nic.remote));
      return make_frames_attachment(sockets.back().socket.get(), nic.mtu);
    case Nic::Kind::Bridged:
      return make_bridged_attachment(nic.interface);
    case Nic::Kind::Nat:
      break;
  }
  return adopt<VZNetworkDeviceAttachment*>([[VZNATNetworkDeviceAttachment alloc] init]);
}

}  // namespace

Handle<VZNetworkDeviceConfiguration*> make_network_device(const Nic& nic, std::vector<DatagramPair>& sockets) {
  const auto device = adopt([[VZVirtioNetworkDeviceConfiguration alloc] init]);
  [device.get() setAttachment:make_attachment(nic, sockets).get()];
  if (!nic.mac.empty()) {
    const auto address = adopt([[VZMACAddress alloc] initWithString:to_ns(nic.mac)]);
    if (!address) throw ApiError(kBadRequest, "nics: the framework does not take the MAC address " + nic.mac);
    [device.get() setMACAddress:address.get()];
  }
  return Handle<VZNetworkDeviceConfiguration*>::share(device.get());
}

std::vector<std::string> bridged_interfaces() {
  NSArray* const interfaces = [VZBridgedNetworkInterface networkInterfaces];
  std::vector<std::string> names;
  for (NSUInteger i = 0; i < [interfaces count]; ++i) {
    VZBridgedNetworkInterface* const interface = [interfaces objectAtIndex:i];
    names.push_back(to_text([interface identifier]));
  }
  return names;
}

}  // namespace vmtest::vz
