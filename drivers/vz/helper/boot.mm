#include "boot.h"

#include <unistd.h>

#include "apple_silicon.h"
#include "foundation.h"

namespace vmtest::vz {
namespace {

Handle<VZBootLoader*> make_linux_boot_loader(const BootLoader& loader) {
  const auto linux = adopt([[VZLinuxBootLoader alloc] initWithKernelURL:file_url(loader.kernel)]);
  if (!loader.initramfs.empty()) [linux.get() setInitialRamdiskURL:file_url(loader.initramfs)];
  [linux.get() setCommandLine:to_ns(loader.command_line)];
  return Handle<VZBootLoader*>::share(linux.get());
}

Handle<VZBootLoader*> make_efi_boot_loader(const BootLoader& loader) {
  Handle<VZEFIVariableStore*> store;
  NSURL* const url = file_url(loader.variable_store);
  if (::access(loader.variable_store.c_str(), F_OK) == 0) {
    store = adopt([[VZEFIVariableStore alloc] initWithURL:url]);
  } else {
    NSError* error = nil;
    store = adopt([[VZEFIVariableStore alloc] initCreatingVariableStoreAtURL:url options:0 error:&error]);
    if (!store) throw api_error(error, "boot_loader.variable_store: " + loader.variable_store);
  }
  const auto efi = adopt([[VZEFIBootLoader alloc] init]);
  [efi.get() setVariableStore:store.get()];
  return Handle<VZBootLoader*>::share(efi.get());
}

Handle<VZGenericMachineIdentifier*> make_identifier(const std::string& path) {
  if (::access(path.c_str(), F_OK) != 0) {
    const auto identifier = adopt([[VZGenericMachineIdentifier alloc] init]);
    write_data(path, [identifier.get() dataRepresentation]);
    return identifier;
  }
  auto identifier = adopt([[VZGenericMachineIdentifier alloc] initWithDataRepresentation:read_data(path)]);
  if (!identifier) throw ApiError(kBadRequest, "platform.machine_identifier: no machine identifier is in " + path);
  return identifier;
}

}  // namespace

Handle<VZBootLoader*> make_boot_loader(const BootLoader& loader) {
  switch (loader.kind) {
    case BootLoader::Kind::Linux:
      return make_linux_boot_loader(loader);
    case BootLoader::Kind::Efi:
      return make_efi_boot_loader(loader);
    case BootLoader::Kind::MacOs:
      break;
  }
  return make_macos_boot_loader();
}

Handle<VZPlatformConfiguration*> make_platform(const Platform& platform, const OsVersion& version) {
  if (platform.kind == Platform::Kind::Mac) return make_mac_platform(platform, version);
  // The class came with the second platform.
  if (version < OsVersion{12, 0}) return {};
  const auto generic = adopt([[VZGenericPlatformConfiguration alloc] init]);
  if (!platform.machine_identifier.empty()) {
    [generic.get() setMachineIdentifier:make_identifier(platform.machine_identifier).get()];
  }
  if (platform.nested_virtualization) [generic.get() setNestedVirtualizationEnabled:YES];
  return Handle<VZPlatformConfiguration*>::share(generic.get());
}

}  // namespace vmtest::vz
