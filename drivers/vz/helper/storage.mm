#include "storage.h"

#include <fcntl.h>

#include "descriptor.h"
#include "foundation.h"

namespace vmtest::vz {
namespace {

VZDiskImageCachingMode caching_mode(Disk::Caching caching) {
  switch (caching) {
    case Disk::Caching::Automatic:
      return VZDiskImageCachingModeAutomatic;
    case Disk::Caching::Uncached:
      return VZDiskImageCachingModeUncached;
    case Disk::Caching::Cached:
      break;
  }
  return VZDiskImageCachingModeCached;
}

VZDiskImageSynchronizationMode image_synchronization(Disk::Synchronization synchronization) {
  switch (synchronization) {
    case Disk::Synchronization::Full:
      return VZDiskImageSynchronizationModeFull;
    case Disk::Synchronization::None:
      return VZDiskImageSynchronizationModeNone;
    case Disk::Synchronization::Fsync:
      break;
  }
  return VZDiskImageSynchronizationModeFsync;
}

VZDiskSynchronizationMode device_synchronization(Disk::Synchronization synchronization) {
  return synchronization == Disk::Synchronization::None ? VZDiskSynchronizationModeNone : VZDiskSynchronizationModeFull;
}

Handle<VZStorageDeviceAttachment*> make_attachment(const Disk& disk, const OsVersion& version) {
  NSError* error = nil;
  Handle<VZStorageDeviceAttachment*> attachment;
  switch (disk.source) {
    case Disk::Source::Image:
      if (version < OsVersion{12, 0}) {
        attachment =
            adopt<VZStorageDeviceAttachment*>([[VZDiskImageStorageDeviceAttachment alloc] initWithURL:file_url(disk.location)
                                                                                             readOnly:disk.read_only
                                                                                                error:&error]);
      } else {
        attachment = adopt<VZStorageDeviceAttachment*>([[VZDiskImageStorageDeviceAttachment alloc]
                    initWithURL:file_url(disk.location)
                       readOnly:disk.read_only
                    cachingMode:caching_mode(disk.caching)
            synchronizationMode:image_synchronization(disk.synchronization)
                          error:&error]);
      }
      break;
    case Disk::Source::Nbd: {
      NSURL* const url = [NSURL URLWithString:to_ns(disk.location)];
      if (url == nil) throw ApiError(kBadRequest, "the disk's nbd: '" + disk.location + "' is no URL");
      attachment = adopt<VZStorageDeviceAttachment*>([[VZNetworkBlockDeviceStorageDeviceAttachment alloc]
                  initWithURL:url
                      timeout:static_cast<NSTimeInterval>(disk.timeout_ms) / 1000
               forcedReadOnly:disk.read_only
          synchronizationMode:device_synchronization(disk.synchronization)
                        error:&error]);
      break;
    }
    case Disk::Source::BlockDevice: {
      Descriptor device = open_file(disk.location, disk.read_only ? O_RDONLY : O_RDWR);
      // The attachment keeps the handle, and the handle the descriptor.
      const auto handle = adopt([[NSFileHandle alloc] initWithFileDescriptor:device.release() closeOnDealloc:YES]);
      attachment = adopt<VZStorageDeviceAttachment*>([[VZDiskBlockDeviceStorageDeviceAttachment alloc]
           initWithFileHandle:handle.get()
                     readOnly:disk.read_only
          synchronizationMode:device_synchronization(disk.synchronization)
                        error:&error]);
      break;
    }
  }
  if (!attachment) throw api_error(error, "the disk " + disk.location);
  return attachment;
}

}  // namespace

Handle<VZStorageDeviceConfiguration*> make_storage_device(const Disk& disk, const OsVersion& version) {
  const auto attachment = make_attachment(disk, version);
  switch (disk.kind) {
    case Disk::Kind::Nvme:
      return adopt<VZStorageDeviceConfiguration*>(
          [[VZNVMExpressControllerDeviceConfiguration alloc] initWithAttachment:attachment.get()]);
    case Disk::Kind::Usb:
      return adopt<VZStorageDeviceConfiguration*>(
          [[VZUSBMassStorageDeviceConfiguration alloc] initWithAttachment:attachment.get()]);
    case Disk::Kind::VirtioBlk:
      break;
  }
  const auto device = adopt([[VZVirtioBlockDeviceConfiguration alloc] initWithAttachment:attachment.get()]);
  // The property came later than the device; a VM works without.
  if (!disk.id.empty() && !(version < OsVersion{12, 3})) [device.get() setBlockDeviceIdentifier:to_ns(disk.id)];
  return Handle<VZStorageDeviceConfiguration*>::share(device.get());
}

Handle<VZUSBMassStorageDevice*> make_usb_device(const Disk& disk, const OsVersion& version) {
  const auto attachment = make_attachment(disk, version);
  const auto configuration = adopt([[VZUSBMassStorageDeviceConfiguration alloc] initWithAttachment:attachment.get()]);
  return adopt([[VZUSBMassStorageDevice alloc] initWithConfiguration:configuration.get()]);
}

}  // namespace vmtest::vz
