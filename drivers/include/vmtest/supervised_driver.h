#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "vmtest/driver.h"

namespace vmtest {

class SupervisedVm;
class SupervisorConnection;
struct HostSide;

/// What drivers have in common whose hypervisor is a process of this host, started by the VM's supervisor. A VM that an object
/// prepared is owned by it, by one connection to the supervisor: when the object or its process goes, the VM goes. Handles of
/// VMs that others own are served as well, by a connection per call.
class SupervisedDriver : public Driver {
 public:
  ~SupervisedDriver() override;

  [[nodiscard]] DriverKind kind() const final { return kind_; }

  [[nodiscard]] VmHandle prepare(const PrepareRequest& request) final;
  VmHandle start(const VmHandle& vm, const MachineConfig& machine) final;
  [[nodiscard]] std::vector<Step> start_steps(const VmHandle& vm) const final;
  /// The hypervisor's power button, if it has one, while most of `timeout` lasts, SIGTERM near its end, SIGKILL at its end; zero
  /// kills at once. Beyond it only the kernel's own clean-up of the killed process is waited for.
  VmHandle stop(const VmHandle& vm, std::chrono::milliseconds timeout) final;
  VmHandle suspend(const VmHandle& vm) final;
  VmHandle resume(const VmHandle& vm) final;
  /// Throws Error, when all that can go is gone, if the host could not be brought back to what it was.
  void destroy(const VmHandle& vm) final;
  [[nodiscard]] VmState state(const VmHandle& vm) final;
  [[nodiscard]] std::string guest_ip(const VmHandle& vm) final;
  [[nodiscard]] std::optional<VmExit> wait_exit(const VmHandle& vm, std::chrono::milliseconds timeout) final;

 protected:
  explicit SupervisedDriver(DriverKind kind);

  /// Who the VM that a SupervisedVm stands for belongs to.
  enum class Owner { Us, Somebody };
  [[nodiscard]] virtual std::unique_ptr<SupervisedVm> make_vm(const VmHandle& vm,
                                                              std::shared_ptr<SupervisorConnection> supervisor,
                                                              Owner owner) const = 0;
  /// Takes what the VM's cards need of the host. It is held by the supervisor from then on.
  [[nodiscard]] virtual HostSide take_host_side(const PrepareRequest& request) const = 0;

  /// Of the sockets that a VM has below its runtime folder the one with the longest path. Where that is too long for the system
  /// the VM is refused before anything of it is there.
  [[nodiscard]] virtual std::filesystem::path longest_socket() const { return "supervisor.sock"; }

  /// What a VM that has ended has left on the host outside its folders and why, in words; empty: nothing.
  [[nodiscard]] virtual std::string left_behind(const VmHandle&) const { return {}; }

  /// The VM if this object owns it, else one connected to for the call; none when nobody runs it any more.
  [[nodiscard]] std::shared_ptr<SupervisedVm> find(const VmHandle& vm) const;
  /// The same; throws Error when there is none. `wanted` says what for: "be paused".
  [[nodiscard]] std::shared_ptr<SupervisedVm> require(const VmHandle& vm, const char* wanted) const;

 private:
  const DriverKind kind_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<SupervisedVm>> vms_;

  friend class SupervisedVm;
};

}  // namespace vmtest
