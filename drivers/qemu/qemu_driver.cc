#include "vmtest/qemu_driver.h"

#include <utility>

#include "qemu_command_line.h"
#include "qemu_vm.h"
#include "supervised/host_side.h"
#include "vmtest/host/process.h"

namespace vmtest {

std::optional<std::string> QemuDriver::unavailable_reason() const {
  const Architecture host = host_architecture();
  const std::string program = qemu_program(host);
  if (find_program(program)) return std::nullopt;
  return "QEMU is not installed: " + program + " is not in PATH; get it with: apt-get install " + qemu_package(host);
}

DiskNeeds QemuDriver::disk_needs() const { return {{DiskFormat::Qcow2, DiskFormat::Raw}, true}; }

std::unique_ptr<SupervisedVm> QemuDriver::make_vm(const VmHandle& vm, std::shared_ptr<SupervisorConnection> supervisor,
                                                  Owner owner) const {
  return std::make_unique<QemuVm>(vm, std::move(supervisor), owner);
}

HostSide QemuDriver::take_host_side(const PrepareRequest& request) const { return take_ports_and_taps(request); }

std::shared_ptr<QemuVm> QemuDriver::require_qemu(const VmHandle& vm, const char* wanted) const {
  return std::static_pointer_cast<QemuVm>(require(vm, wanted));
}

ConsoleEndpoint QemuDriver::console_endpoint(const VmHandle& vm) const {
  return {ConsoleEndpoint::Kind::UnixSocket, (vm.runtime_dir / kConsoleSocket).string(), vm.work_dir / kConsoleLog};
}

}  // namespace vmtest
