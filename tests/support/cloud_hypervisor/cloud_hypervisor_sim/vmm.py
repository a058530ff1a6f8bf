"""The VMM: one configuration, at most one VM made of it, and the requests on both, one after another."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from . import migration, rules, snapshot, versions
from .consoles import Consoles
from .events import EventMonitor
from .faults import (
    Fault,
    Kind,
    already_created,
    io_error_text,
    migrating,
    missing_config,
    not_created,
    not_running,
)
from .log import error
from .vm import CREATED, PAUSED, RUNNING, Config, Vm

LISTS = {
    "add-device": "devices",
    "add-user-device": "user_devices",
    "add-disk": "disks",
    "add-fs": "fs",
    "add-generic-vhost-user": "generic_vhost_user",
    "add-pmem": "pmem",
    "add-net": "net",
    "add-vdpa": "vdpa",
}


# How long the guest's drivers may have taken a device before the event of it comes.
ACTIVATION_SECONDS = (0.05, 1.0)


class Vmm:
    """Everything but `post` belongs to the thread that runs `run`."""

    def __init__(self, events: EventMonitor, version: str, no_shutdown: bool, guest_debug: bool) -> None:
        self.events = events
        self.version = version
        self.no_shutdown = no_shutdown
        self.guest_debug = guest_debug
        self.config: Config | None = None
        self.vm: Vm | None = None
        self.migration: migration.Outgoing | None = None
        self.failure: Fault | None = None
        self._consoles: Consoles | None = None
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._generation = 0
        self._running = True

    @property
    def old(self) -> bool:
        return self.version != versions.MAIN

    # The loop ---------------------------------------------------------------------------------------------------

    def post(self, action: Callable[[], None]) -> None:
        """Runs the action in the VMM's thread; safe from any thread and from a signal handler."""
        self._queue.put(action)

    def run(self) -> None:
        while self._running:
            self._queue.get()()

    def exit(self) -> None:
        """What a signal, or a start that failed, leads to."""
        if not self._running:
            return
        try:
            if self.migration is not None:
                self.migration.abort()
                self.migration = None
            self.vmm_shutdown()
        except Fault as fault:
            self.failure = fault
            if self.vm is not None:
                self.vm.close()
        self._running = False

    def close(self) -> None:
        """Gives back what is held, whatever the state."""
        if self.vm is not None:
            self.vm.close()
        if self._consoles is not None:
            self._consoles.close()

    # QEMU's events ----------------------------------------------------------------------------------------------

    def _listener(self) -> Callable[[dict[str, Any] | None], None]:
        self._generation += 1
        generation = self._generation
        return lambda message: self.post(lambda: self._on_qemu(generation, message))

    def _on_qemu(self, generation: int, message: dict[str, Any] | None) -> None:
        if generation != self._generation or self.vm is None or self.vm.qemu is None:
            return
        if message is None:
            self._guest_process_gone()
            return
        data = message.get("data", {})
        match message["event"]:
            case "SHUTDOWN" if data.get("reason") == "guest-reset":
                self._guarded(self.vm_reboot)
            case "SHUTDOWN" if data.get("guest"):
                self._guarded(self._guest_exit)
            case "DEVICE_DELETED" if "device" in data:
                self.vm.ejected(data["device"])
            case "GUEST_PANICKED":
                self.events.emit("guest", "panic")
            case "VSERPORT_CHANGE":
                self.vm.guest_port_changed(data["id"], data["open"])

    def _guarded(self, action: Callable[[], None]) -> None:
        """An event of the guest has nobody to answer to: what fails ends the program."""
        try:
            action()
        except Fault as fault:
            self.failure = fault
            error(str(fault))
            self.exit()

    def _guest_exit(self) -> None:
        if self.no_shutdown:
            self.vm_shutdown()
        else:
            self.vmm_shutdown()
            self._running = False

    def _guest_process_gone(self) -> None:
        assert self.vm is not None and self.vm.qemu is not None
        self.vm.qemu.kill()
        self.failure = Fault("VMM thread exited with error", f"QEMU ended unexpectedly: {self.vm.qemu.last_words}")
        error(str(self.failure))
        self.exit()

    def _watch_activations(self) -> None:
        """QEMU has no event for it, so it is looked at, less and less often while nothing happens."""
        generation = self._generation

        def look(pause: float) -> None:
            if generation != self._generation or self.vm is None or self.vm.qemu is None or self.migration is not None:
                return
            try:
                waiting = self.vm.report_activations()
            except Fault:
                return
            if waiting:
                later(min(pause * 1.5, ACTIVATION_SECONDS[1]))

        def later(pause: float) -> None:
            timer = threading.Timer(pause, lambda: self.post(lambda: look(pause)))
            timer.daemon = True
            timer.start()

        later(ACTIVATION_SECONDS[0])

    # Life cycle -------------------------------------------------------------------------------------------------

    def _check_not_migrating(self) -> None:
        if self.migration is not None:
            raise migrating()

    def _running_vm(self) -> Vm:
        self._check_not_migrating()
        if self.vm is None:
            raise not_running()
        return self.vm

    def _open_consoles(self) -> Consoles:
        assert self.config is not None
        self._consoles = Consoles(self.config)
        return self._consoles

    def _take_consoles(self) -> Consoles:
        """The VM owns them from here on."""
        consoles = self._consoles or self._open_consoles()
        self._consoles = None
        return consoles

    def vm_create(self, config: Config) -> None:
        self._check_not_migrating()
        if self.config is not None:
            raise already_created()
        self.config = config
        self._open_consoles()

    def vm_boot(self) -> None:
        self._check_not_migrating()
        if self.vm is not None:
            raise already_created()
        self.events.emit("vm", "booting")
        if self.config is None:
            raise missing_config()
        self._start_vm()
        self.events.emit("vm", "booted")

    def _start_vm(self) -> None:
        vm = self._make_vm()
        # A VM whose boot fails half way stays, not booted, until it is deleted.
        self.vm = vm
        vm.boot()
        self._watch_activations()

    def _make_vm(self, layout: Any = None) -> Vm:
        assert self.config is not None
        consoles = self._take_consoles()
        try:
            return Vm(self.config, consoles, self.events, self._listener(), layout, self.old)
        except Fault:
            self._consoles = consoles
            raise

    def vm_pause(self) -> None:
        self._running_vm().pause()

    def vm_resume(self) -> None:
        self._running_vm().resume()

    def vm_shutdown(self) -> None:
        vm = self._running_vm()
        self.vm = None
        self._generation += 1
        vm.shutdown()
        self.events.emit("vm", "shutdown")

    def vm_reboot(self) -> None:
        self.events.emit("vm", "rebooting")
        self._check_not_migrating()
        if self.vm is None:
            raise not_created()
        vm, self.vm = self.vm, None
        self._generation += 1
        vm.shutdown()
        self._start_vm()
        self.events.emit("vm", "rebooted")

    def vm_delete(self) -> None:
        if self.config is None:
            return
        self._check_not_migrating()
        if self.vm is not None:
            self.vm_shutdown()
        self._forget_config()
        self.events.emit("vm", "deleted")

    def _forget_config(self) -> None:
        self.config = None
        if self._consoles is not None:
            self._consoles.close()
            self._consoles = None

    def vmm_shutdown(self) -> None:
        self.vm_delete()
        self.events.emit("vmm", "shutdown")

    def stop_after_reply(self) -> None:
        self._running = False

    # Questions --------------------------------------------------------------------------------------------------

    def vmm_ping(self) -> dict[str, Any]:
        features = ["guest_debug"] if self.guest_debug else []
        return {
            "build_version": f"v{versions.NUMBERS[self.version]}",
            "version": f"{versions.NUMBERS[self.version]}.0",
            "pid": os.getpid(),
            "features": features + ["io_uring", "kvm"],
        }

    def vm_info(self) -> dict[str, Any]:
        from . import shapes

        if self.migration is not None:
            return self.migration.vm_info
        if self.config is None:
            raise not_created()
        info: dict[str, Any] = {
            "config": shapes.dump("VmConfig", self.config),
            "state": CREATED if self.vm is None else self.vm.state,
            "memory_actual_size": rules.total_memory(self.config) - rules.hotplugged_memory(self.config),
        }
        if self.vm is not None:
            if self.vm.qemu is not None:
                base = max(0, info["memory_actual_size"] - self.vm.sizes.balloon_size())
                info["memory_actual_size"] = base + self.vm.sizes.plugged_memory()
            info["device_tree"] = self.vm.device_tree() if self.vm.qemu is not None else {}
        return info

    def vm_counters(self) -> dict[str, Any]:
        return self._running_vm().counters()

    # Changes ----------------------------------------------------------------------------------------------------

    def _existing_config(self) -> Config:
        if self.config is None:
            raise not_created()
        return self.config

    def vm_resize(self, vcpus: int | None, ram: int | None, balloon: int | None) -> None:
        config = self._existing_config()
        self._check_not_migrating()
        if self.vm is not None:
            self.vm.sizes.resize(vcpus, ram, balloon)
            return
        if vcpus is not None:
            config["cpus"]["boot_vcpus"] = vcpus
        if ram is not None:
            config["memory"]["size"] = ram
        if balloon is not None and config["balloon"]:
            config["balloon"]["size"] = balloon

    def vm_resize_disk(self, device_id: str, size: int) -> None:
        self._existing_config()
        self._check_not_migrating()
        if self.vm is None:
            raise Fault("Failed resizing a disk image")
        self.vm.resize_disk(device_id, size)

    def vm_resize_zone(self, zone_id: str, size: int) -> None:
        config = self._existing_config()
        self._check_not_migrating()
        if self.vm is not None:
            self.vm.sizes.resize_zone(zone_id, size)
            return
        for zone in config["memory"]["zones"] or []:
            if zone["id"] == zone_id:
                zone["size"] = size
                return
        raise Fault("Failed resizing a memory zone")

    def add_device(self, action: str, device: Config) -> dict[str, str] | None:
        """The place of a device added to a running VM; None if only the configuration changed."""
        config = self._existing_config()
        changed = rules.copy(config)
        if action == "add-vsock":
            if changed["vsock"] is not None:
                raise Fault("Too many virtio-vsock devices")
            kind = "vsock"
            changed["vsock"] = device
        else:
            kind = LISTS[action]
            changed[kind] = (changed[kind] or []) + [device]
        rules.validate(changed, self.old)
        self._check_not_migrating()
        place = None
        if self.vm is not None:
            place = self.vm.add_device(kind, device)
            self._watch_activations()
        if kind == "vsock":
            config["vsock"] = device
        else:
            config[kind] = (config[kind] or []) + [device]
        return place

    def vm_remove_device(self, device_id: str) -> None:
        self._check_not_migrating()
        if self.vm is not None:
            self.vm.remove_device(device_id)
        elif self.config is None:
            raise not_created()
        elif not rules.remove_device(self.config, device_id):
            raise Fault(f'No device with id "{device_id}" to remove', kind=Kind.NO_SUCH_DEVICE)

    def vm_power_button(self) -> None:
        self._running_vm().power_button()

    def vm_nmi(self) -> None:
        self._running_vm().nmi()

    def vm_coredump(self, url: str) -> None:
        vm = self._running_vm()
        self.events.emit("vm", "coredumping")
        outer = "Error coredumping VM"
        if vm.state not in (RUNNING, PAUSED):
            raise Fault(outer, "coredump", "Trying to coredump while VM is not running or paused")
        resume = vm.state == RUNNING
        if not url.startswith("file://"):
            raise Fault(outer, "coredump", f"Could not extract file from URL: {url}")
        if resume:
            vm.pause()
        try:
            fd = os.open(url.removeprefix("file://"), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise Fault(outer, "coredump", io_error_text(error)) from None
        try:
            vm.command("getfd", {"fdname": "coredump"}, fds=[fd])
            vm.command("dump-guest-memory", {"paging": False, "protocol": "fd:coredump"}, timeout=600)
        except Fault as fault:
            raise Fault(outer, "coredump file", fault.chain[-1]) from None
        finally:
            os.close(fd)
        if resume:
            vm.resume()

    # Snapshots and migration ------------------------------------------------------------------------------------

    def vm_snapshot(self, url: str) -> None:
        vm = self._running_vm()
        snapshot.take(vm, url)

    def vm_restore(self, request: Config) -> None:
        self._check_not_migrating()
        if self.vm is not None or self.config is not None:
            raise already_created()
        config = snapshot.read_config(request["source_url"])
        snapshot.apply_request(request, config)
        try:
            saved = snapshot.read_state(request["source_url"])
            self.config = config
            self._open_consoles()
            self.events.emit("vm", "restoring")
            vm = self._make_vm(saved.layout)
            try:
                vm.lock_disks()
                saved.load_into(vm)
            except BaseException:
                self._generation += 1
                vm.close()
                raise
            vm.state = PAUSED
            self.vm = vm
            self.events.emit("vm", "restored")
            if request["resume"]:
                self.vm_resume()
        except Fault:
            self.vm_delete()
            raise

    def vm_receive_migration(self, request: Config) -> None:
        if self.migration is not None:
            raise migration.receive_fault("There is already an ongoing migration")
        if self.vm is not None:
            raise migration.receive_fault("Can't receive a migration when a VM is already created")
        migration.check_receive(request)
        try:
            migration.receive(self, request)
        except migration.Aborted:
            if versions.has(self.version, "v53"):
                raise

    def adopt(self, config: Config, layout: Any) -> Vm:
        """A VM that is about to be received, in place of whatever was configured."""
        self._forget_config()
        self.config = config
        self._open_consoles()
        return self._make_vm(layout)

    def abandon(self, vm: Vm | None) -> None:
        self._generation += 1
        if vm is not None:
            vm.close()
        self.vm = None
        self._forget_config()

    def vm_send_migration(self, request: Config) -> None:
        if self.migration is not None:
            raise migration.send_fault("There is already an ongoing migration")
        if self.vm is None:
            raise migration.send_fault("VM is not running")
        migration.check_send(request)
        assert self.config is not None
        if request["local"] and not rules.backed_by_shared_memory(self.config):
            raise migration.send_fault("Local migration requires shared memory or hugepages enabled")
        if self.vm.state not in (RUNNING, PAUSED):
            raise migration.send_fault(f"VM is not running or paused: {self.vm.state}")
        info = self.vm_info()
        self.migration = migration.Outgoing(self.vm, request, info, self.events, self._migration_done_later)
        self.migration.start()
        if not versions.has(self.version, "v53"):
            self._await_migration(self.migration)

    def _await_migration(self, outgoing: migration.Outgoing) -> None:
        """Until v53 the request is answered when all is over, and no other one meanwhile."""
        outgoing.wait()
        self._migration_done()
        if outgoing.failure is not None:
            raise outgoing.failure

    def _migration_done_later(self) -> None:
        self.post(self._migration_done)

    def _migration_done(self) -> None:
        if self.migration is None:
            return
        outgoing, self.migration = self.migration, None
        vm = outgoing.vm
        if outgoing.failure is None and not outgoing.preserve_source:
            self.vm = None
            self._generation += 1
            try:
                vm.shutdown()
            except Fault as fault:
                error(f"Failed shutting down the VM after migration: {fault}")
            self.exit()
            return
        if outgoing.failure is not None:
            error(f"Migration failed: {outgoing.failure}")
            outgoing.resume_after_failure()
