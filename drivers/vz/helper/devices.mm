#include "devices.h"

#include "apple_silicon.h"
#include "foundation.h"

namespace vmtest::vz {
namespace {

Handle<VZSerialPortAttachment*> make_relay_attachment(const PortRelay& relay) {
  // The relay keeps its descriptors.
  const auto reading = adopt([[NSFileHandle alloc] initWithFileDescriptor:relay.port_input() closeOnDealloc:NO]);
  const auto writing = adopt([[NSFileHandle alloc] initWithFileDescriptor:relay.port_output() closeOnDealloc:NO]);
  return adopt<VZSerialPortAttachment*>([[VZFileHandleSerialPortAttachment alloc] initWithFileHandleForReading:reading.get()
                                                                                          fileHandleForWriting:writing.get()]);
}

Handle<VZSerialPortAttachment*> make_serial_attachment(const Serial& serial, std::vector<std::unique_ptr<PortRelay>>& relays) {
  if (serial.kind == Serial::Kind::Socket) {
    relays.push_back(std::make_unique<PortRelay>(PortRelay::Options{
        .socket = serial.socket, .log = serial.log, .append = serial.append, .unread = PortRelay::Unread::Drop}));
    return make_relay_attachment(*relays.back());
  }
  NSError* error = nil;
  auto attachment = adopt<VZSerialPortAttachment*>([[VZFileSerialPortAttachment alloc] initWithURL:file_url(serial.log)
                                                                                            append:serial.append
                                                                                             error:&error]);
  if (!attachment) throw api_error(error, "serial.log: " + serial.log);
  return attachment;
}

Handle<VZDirectoryShare*> make_share(const Share& share) {
  if (share.kind == Share::Kind::Rosetta) return make_rosetta_share(share);
  std::vector<Handle<NSObject*>> directories;
  std::vector<id> pointers;
  std::vector<id> names;
  for (const SharedDirectory& directory : share.directories) {
    directories.push_back(adopt<NSObject*>([[VZSharedDirectory alloc] initWithURL:file_url(directory.path)
                                                                         readOnly:directory.read_only]));
    pointers.push_back(directories.back().get());
    names.push_back(to_ns(directory.name));
    NSError* error = nil;
    if (share.kind == Share::Kind::Multiple && ![VZMultipleDirectoryShare validateName:names.back() error:&error]) {
      throw api_error(error, "shares: the name '" + directory.name + "'");
    }
  }
  if (share.kind == Share::Kind::Single) {
    return adopt<VZDirectoryShare*>([[VZSingleDirectoryShare alloc] initWithDirectory:pointers.front()]);
  }
  NSDictionary* const named = [NSDictionary dictionaryWithObjects:pointers.data() forKeys:names.data() count:names.size()];
  return adopt<VZDirectoryShare*>([[VZMultipleDirectoryShare alloc] initWithDirectories:named]);
}

Handle<NSObject*> make_graphics(const Graphics& graphics) {
  if (graphics.kind == Graphics::Kind::Mac) return Handle<NSObject*>::share(make_mac_graphics(graphics).get());
  const auto scanout = adopt([[VZVirtioGraphicsScanoutConfiguration alloc] initWithWidthInPixels:graphics.width
                                                                                  heightInPixels:graphics.height]);
  const auto device = adopt([[VZVirtioGraphicsDeviceConfiguration alloc] init]);
  [device.get() setScanouts:to_ns_array<id>(scanout.get())];
  return Handle<NSObject*>::share(device.get());
}

Handle<NSObject*> make_sound(const Audio& audio) {
  std::vector<Handle<NSObject*>> streams;
  if (audio.input) {
    const auto stream = adopt([[VZVirtioSoundDeviceInputStreamConfiguration alloc] init]);
    [stream.get() setSource:adopt([[VZHostAudioInputStreamSource alloc] init]).get()];
    streams.push_back(Handle<NSObject*>::share(stream.get()));
  }
  if (audio.output) {
    const auto stream = adopt([[VZVirtioSoundDeviceOutputStreamConfiguration alloc] init]);
    [stream.get() setSink:adopt([[VZHostAudioOutputStreamSink alloc] init]).get()];
    streams.push_back(Handle<NSObject*>::share(stream.get()));
  }
  const auto device = adopt([[VZVirtioSoundDeviceConfiguration alloc] init]);
  [device.get() setStreams:to_ns_array(streams)];
  return Handle<NSObject*>::share(device.get());
}

Handle<NSObject*> make_keyboard(Keyboard keyboard) {
  if (keyboard == Keyboard::Mac) return Handle<NSObject*>::share(make_mac_keyboard().get());
  return adopt<NSObject*>([[VZUSBKeyboardConfiguration alloc] init]);
}

Handle<NSObject*> make_pointing(Pointing pointing) {
  if (pointing == Pointing::MacTrackpad) return Handle<NSObject*>::share(make_mac_trackpad().get());
  return adopt<NSObject*>([[VZUSBScreenCoordinatePointingDeviceConfiguration alloc] init]);
}

}  // namespace

void add_ports(VZVirtualMachineConfiguration* configuration, const VmConfig& config,
               std::vector<std::unique_ptr<PortRelay>>& relays) {
  if (config.serial.kind != Serial::Kind::None) {
    const auto port = adopt([[VZVirtioConsoleDeviceSerialPortConfiguration alloc] init]);
    [port.get() setAttachment:make_serial_attachment(config.serial, relays).get()];
    [configuration setSerialPorts:to_ns_array<id>(port.get())];
  }
  if (config.console_ports.empty()) return;
  const auto device = adopt([[VZVirtioConsoleDeviceConfiguration alloc] init]);
  VZVirtioConsolePortConfigurationArray* const ports = [device.get() ports];
  for (NSUInteger i = 0; i < config.console_ports.size(); ++i) {
    const ConsolePort& wanted = config.console_ports[i];
    relays.push_back(std::make_unique<PortRelay>(PortRelay::Options{.socket = wanted.socket, .unread = PortRelay::Unread::Hold}));
    const auto port = adopt([[VZVirtioConsolePortConfiguration alloc] init]);
    [port.get() setName:to_ns(wanted.name)];
    [port.get() setAttachment:make_relay_attachment(*relays.back()).get()];
    [ports setObject:port.get() atIndexedSubscript:i];
  }
  [configuration setConsoleDevices:to_ns_array<id>(device.get())];
}

void add_shares(VZVirtualMachineConfiguration* configuration, const VmConfig& config) {
  std::vector<Handle<NSObject*>> devices;
  for (const Share& share : config.shares) {
    NSError* error = nil;
    if (![VZVirtioFileSystemDeviceConfiguration validateTag:to_ns(share.tag) error:&error]) {
      throw api_error(error, "shares: the tag '" + share.tag + "'");
    }
    const auto device = adopt([[VZVirtioFileSystemDeviceConfiguration alloc] initWithTag:to_ns(share.tag)]);
    [device.get() setShare:make_share(share).get()];
    devices.push_back(Handle<NSObject*>::share(device.get()));
  }
  if (!devices.empty()) [configuration setDirectorySharingDevices:to_ns_array(devices)];
}

void add_other_devices(VZVirtualMachineConfiguration* configuration, const VmConfig& config) {
  if (config.entropy) {
    const auto device = adopt([[VZVirtioEntropyDeviceConfiguration alloc] init]);
    [configuration setEntropyDevices:to_ns_array<id>(device.get())];
  }
  if (config.balloon) {
    const auto device = adopt([[VZVirtioTraditionalMemoryBalloonDeviceConfiguration alloc] init]);
    [configuration setMemoryBalloonDevices:to_ns_array<id>(device.get())];
  }
  if (config.vsock) {
    const auto device = adopt([[VZVirtioSocketDeviceConfiguration alloc] init]);
    [configuration setSocketDevices:to_ns_array<id>(device.get())];
  }
  if (config.graphics) [configuration setGraphicsDevices:to_ns_array<id>(make_graphics(*config.graphics).get())];
  if (config.audio) [configuration setAudioDevices:to_ns_array<id>(make_sound(*config.audio).get())];
  if (config.keyboard != Keyboard::None) [configuration setKeyboards:to_ns_array<id>(make_keyboard(config.keyboard).get())];
  if (config.pointing != Pointing::None) [configuration setPointingDevices:to_ns_array<id>(make_pointing(config.pointing).get())];
  if (config.usb_controller) {
    const auto controller = adopt([[VZXHCIControllerConfiguration alloc] init]);
    [configuration setUsbControllers:to_ns_array<id>(controller.get())];
  }
}

}  // namespace vmtest::vz
