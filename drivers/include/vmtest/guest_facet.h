#pragma once

#include <memory>

#include "vmtest/guest.h"
#include "vmtest/vm_handle.h"

namespace vmtest {

/// What a driver offers whose guests are not reached by SSH: Driver::guests(). The same rules on threads as for Driver.
class GuestFacet {
 public:
  virtual ~GuestFacet() = default;
  GuestFacet() = default;
  GuestFacet(const GuestFacet&) = delete;
  GuestFacet& operator=(const GuestFacet&) = delete;

  /// The way into a running guest; null when that is SSH after all, which it is for some VMs of a router. It must not outlive the
  /// driver. Throws Error when the VM does not run.
  [[nodiscard]] virtual std::unique_ptr<Guest> connect_guest(const VmHandle& vm) = 0;
};

}  // namespace vmtest
