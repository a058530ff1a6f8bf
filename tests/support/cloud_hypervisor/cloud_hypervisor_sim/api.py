"""The API's endpoints: which method and body each takes, what it asks of the VMM, and how failures are answered."""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import openapi, shapes, versions
from .faults import Fault, Kind
from .http_server import Request, Response
from .vmm import Vmm

ROOT = "/api/v1"

STATUS = {
    Kind.OTHER: 500,
    Kind.NOT_CREATED: 404,
    Kind.NO_SUCH_DEVICE: 404,
    Kind.INVALID_CONFIG: 400,
    Kind.CONFLICT: 409,
    Kind.PENDING: 500,
}


@dataclass(frozen=True)
class Endpoint:
    """`body` is the shape of the request; the action runs in the VMM's thread."""

    method: str
    outer: str
    action: Callable[[Vmm, Any], Any]
    body: str | None = None


def _adder(action: str) -> Callable[[Vmm, Any], Any]:
    return lambda vmm, body: vmm.add_device(action, body)


ENDPOINTS: dict[str, Endpoint] = {
    "/vmm.ping": Endpoint("GET", "", lambda vmm, _: vmm.vmm_ping()),
    "/vmm.shutdown": Endpoint("PUT", "The VMM could not shutdown", lambda vmm, _: vmm.vmm_shutdown()),
    "/vm.info": Endpoint("GET", "The VM info is not available", lambda vmm, _: vmm.vm_info()),
    "/vm.counters": Endpoint("GET", "The VM info is not available", lambda vmm, _: vmm.vm_counters()),
    "/vm.create": Endpoint("PUT", "The VM could not be created", lambda vmm, body: vmm.vm_create(body), "VmConfig"),
    "/vm.delete": Endpoint("PUT", "The VM could not be deleted", lambda vmm, _: vmm.vm_delete()),
    "/vm.boot": Endpoint("PUT", "The VM could not boot", lambda vmm, _: vmm.vm_boot()),
    "/vm.pause": Endpoint("PUT", "The VM could not be paused", lambda vmm, _: vmm.vm_pause()),
    "/vm.resume": Endpoint("PUT", "The VM could not resume", lambda vmm, _: vmm.vm_resume()),
    "/vm.shutdown": Endpoint("PUT", "The VM could not shutdown", lambda vmm, _: vmm.vm_shutdown()),
    "/vm.reboot": Endpoint("PUT", "The VM could not reboot", lambda vmm, _: vmm.vm_reboot()),
    "/vm.power-button": Endpoint("PUT", "Error triggering power button", lambda vmm, _: vmm.vm_power_button()),
    "/vm.nmi": Endpoint("PUT", "Error triggering NMI", lambda vmm, _: vmm.vm_nmi()),
    "/vm.resize": Endpoint(
        "PUT",
        "The VM could not be resized",
        lambda vmm, body: vmm.vm_resize(body["desired_vcpus"], body["desired_ram"], body["desired_balloon"]),
        "VmResize",
    ),
    "/vm.resize-disk": Endpoint(
        "PUT",
        "The disk could not be resized",
        lambda vmm, body: vmm.vm_resize_disk(body["id"], body["desired_size"]),
        "VmResizeDisk",
    ),
    "/vm.resize-zone": Endpoint(
        "PUT",
        "The memory zone could not be resized",
        lambda vmm, body: vmm.vm_resize_zone(body["id"], body["desired_ram"]),
        "VmResizeZone",
    ),
    "/vm.add-device": Endpoint("PUT", "The device could not be added to the VM", _adder("add-device"), "DeviceConfig"),
    "/vm.add-user-device": Endpoint(
        "PUT", "The user device could not be added to the VM", _adder("add-user-device"), "UserDeviceConfig"
    ),
    "/vm.add-disk": Endpoint("PUT", "The disk could not be added to the VM", _adder("add-disk"), "DiskConfig"),
    "/vm.add-fs": Endpoint("PUT", "The fs could not be added to the VM", _adder("add-fs"), "FsConfig"),
    "/vm.add-generic-vhost-user": Endpoint(
        "PUT",
        "The generic vhost-user device could not be added to the VM",
        _adder("add-generic-vhost-user"),
        "GenericVhostUserConfig",
    ),
    "/vm.add-pmem": Endpoint("PUT", "The pmem device could not be added to the VM", _adder("add-pmem"), "PmemConfig"),
    "/vm.add-net": Endpoint("PUT", "The network device could not be added to the VM", _adder("add-net"), "NetConfig"),
    "/vm.add-vdpa": Endpoint("PUT", "The vDPA device could not be added to the VM", _adder("add-vdpa"), "VdpaConfig"),
    "/vm.add-vsock": Endpoint(
        "PUT", "The vsock device could not be added to the VM", _adder("add-vsock"), "VsockConfig"
    ),
    "/vm.remove-device": Endpoint(
        "PUT",
        "The device could not be removed from the VM",
        lambda vmm, body: vmm.vm_remove_device(body["id"]),
        "VmRemoveDevice",
    ),
    "/vm.snapshot": Endpoint(
        "PUT",
        "The VM could not be snapshotted",
        lambda vmm, body: vmm.vm_snapshot(body["destination_url"]),
        "VmSnapshotConfig",
    ),
    "/vm.restore": Endpoint(
        "PUT", "The VM could not be restored", lambda vmm, body: vmm.vm_restore(body), "RestoreConfig"
    ),
    "/vm.coredump": Endpoint(
        "PUT",
        "The VM could not be coredumped",
        lambda vmm, body: vmm.vm_coredump(body["destination_url"]),
        "VmCoredumpData",
    ),
    "/vm.receive-migration": Endpoint(
        "PUT",
        "Error receiving migration",
        lambda vmm, body: vmm.vm_receive_migration(body),
        "ReceiveMigrationData",
    ),
    "/vm.send-migration": Endpoint(
        "PUT",
        "Error dispatching the migration worker",
        lambda vmm, body: vmm.vm_send_migration(body),
        "SendMigrationData",
    ),
}


class HttpFault(Exception):
    """An answer that does not come from the VMM."""

    def __init__(self, status: int, *chain: str) -> None:
        super().__init__(*chain)
        self.status = status
        self.chain = list(chain)


class Api:
    """Turns requests into work for the VMM's thread."""

    def __init__(self, vmm: Vmm) -> None:
        self._vmm = vmm

    def handle(self, request: Request) -> Response:
        path = request.path.partition("?")[0]
        endpoint = ENDPOINTS.get(path.removeprefix(ROOT)) if path.startswith(ROOT + "/") else None
        try:
            if endpoint is None or not self._is_served(path.removeprefix(ROOT)):
                raise HttpFault(404, "Not Found")
            return self._answer(path.removeprefix(ROOT), endpoint, request)
        except HttpFault as fault:
            return Response(fault.status, json.dumps(fault.chain).encode())

    def _is_served(self, path: str) -> bool:
        if path == "/vm.coredump":
            return self._vmm.guest_debug
        return versions.has(self._vmm.version, versions.PATHS.get(path, self._vmm.version))

    def _answer(self, path: str, endpoint: Endpoint, request: Request) -> Response:
        if request.method == "PATCH":
            # Only vm.create and the requests on the VMM itself explain the refusal.
            if path in ("/vm.create", "/vm.info", "/vmm.ping", "/vmm.shutdown"):
                raise HttpFault(400, "Bad Request")
            return Response(400)
        if request.method != endpoint.method:
            raise HttpFault(400, "Bad Request")
        body = self._body(path, endpoint, request)
        if isinstance(body, Response):
            return body
        result = self._run(path, endpoint, body)
        if path == "/vmm.shutdown":
            return Response(200)
        if result is None:
            self._check_reply(path, 204, None)
            return Response(204)
        self._check_reply(path, 200, result)
        return Response(200, json.dumps(result, separators=(",", ":")).encode())

    def _body(self, path: str, endpoint: Endpoint, request: Request) -> Any:
        if endpoint.body is None:
            if request.body is not None and path not in ("/vmm.ping", "/vmm.shutdown", "/vm.info", "/vm.counters"):
                raise HttpFault(400, "Bad Request")
            return None
        if request.body is None:
            if path == "/vm.create":
                return Response(400)
            raise HttpFault(400, "Bad Request")
        outer = "Failed to deserialize JSON"
        try:
            value = json.loads(request.body)
        except ValueError as error:
            raise HttpFault(400, outer, str(error)) from None
        try:
            body = shapes.load(endpoint.body, value)
        except shapes.ShapeError as error:
            raise HttpFault(400, outer, f"{error} at line 1 column {len(request.body)}") from None
        try:
            openapi.check_request(self._vmm.version, path, value)
        except openapi.Violation as violation:
            raise HttpFault(400, outer, f"{violation} (not what the OpenAPI description allows)") from None
        self._take_fds(path, body, request.fds)
        return body

    def _take_fds(self, path: str, body: Any, fds: list[int]) -> None:
        """Descriptors come with the request's bytes; numbers in the body never count."""
        if path == "/vm.create":
            for net in body["net"] or []:
                net["fds"] = None
            for device in body["devices"] or []:
                device["fd"] = None
        elif path == "/vm.add-net":
            body["fds"] = self._keep(fds) or None
        elif path == "/vm.add-device":
            if len(fds) > 1:
                raise HttpFault(400, "Bad Request")
            body["fd"] = next(iter(self._keep(fds)), None)
        elif path == "/vm.restore":
            wanted = body["net_fds"] or []
            if len(fds) != sum(net["num_fds"] for net in wanted):
                raise HttpFault(400, "Bad Request")
            kept = self._keep(fds)
            for net in wanted:
                net["fds"], kept = kept[: net["num_fds"]], kept[net["num_fds"] :]

    @staticmethod
    def _keep(fds: list[int]) -> list[int]:
        import os

        return [os.dup(fd) for fd in fds]

    def _run(self, path: str, endpoint: Endpoint, body: Any) -> Any:
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def work() -> None:
            try:
                results.put(endpoint.action(self._vmm, body))
                if path == "/vmm.shutdown":
                    self._vmm.stop_after_reply()
            except Fault as fault:
                results.put(fault)
            except Exception as error:
                # A defect of this program must not look like an answer of the real one.
                import traceback

                traceback.print_exc()
                results.put(Fault("simulator failure", repr(error)))

        self._vmm.post(work)
        result = results.get()
        if isinstance(result, Fault):
            raise self._refusal(path, endpoint, result)
        return result

    def _refusal(self, path: str, endpoint: Endpoint, fault: Fault) -> HttpFault:
        if path == "/vm.resize" and fault.kind is Kind.PENDING:
            return HttpFault(429, "Too Many Requests")
        status = STATUS[fault.kind]
        if self._vmm.old and not (fault.kind is Kind.NOT_CREATED and versions.has(self._vmm.version, "v53")):
            status = 500
        return HttpFault(status, "Error from API", endpoint.outer, *fault.chain)

    def _check_reply(self, path: str, status: int, body: Any) -> None:
        try:
            openapi.check_reply(self._vmm.version, path, status, body)
        except openapi.Violation as violation:
            print(f"cloud-hypervisor: simulator: {violation}", file=sys.stderr, flush=True)
            raise HttpFault(500, "simulator: the reply is not what the OpenAPI description allows", str(violation))
