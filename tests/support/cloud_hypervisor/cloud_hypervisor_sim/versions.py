"""The versions that this program can be told to be, and since when there is what the oldest of them does not have."""

from __future__ import annotations

import os
import sys

VARIABLE = "VMTEST_SIM_CH_VERSION"
MAIN = "main"
# From the oldest to the newest; `main` calls itself by the last release.
NUMBERS = {"v51": "51.1", "v52": "52.0", "v53": "53.0", MAIN: "53.0"}
ORDER = tuple(NUMBERS)

PATHS = {"/vm.add-generic-vhost-user": "v52"}

# By the structures of the OpenAPI description. The real program takes such a field all the same, and drops it.
FIELDS = {
    ("CpusConfig", "core_scheduling"): "v52",
    ("DiskConfig", "lock_granularity"): "v52",
    ("PlatformConfig", "iommufd"): "v52",
    ("PlatformConfig", "vfio_p2p_dma"): "v52",
    ("RestoreConfig", "memory_restore_mode"): "v52",
    ("RestoreConfig", "resume"): "v52",
    ("SendMigrationData", "connections"): "v52",
    ("SendMigrationData", "downtime_ms"): "v52",
    ("SendMigrationData", "timeout_s"): "v52",
    ("SendMigrationData", "timeout_strategy"): "v52",
    ("MemoryConfig", "reserve"): "v53",
    ("MemoryZoneConfig", "reserve"): "v53",
    ("ReceiveMigrationData", "memory_mode"): "v53",
    ("ReceiveMigrationData", "tls_dir"): "v53",
    ("SendMigrationData", "memory_mode"): "v53",
    ("SendMigrationData", "tls_dir"): "v53",
    ("VmConfig", "rtc"): "v53",
}

EVENTS = {
    **dict.fromkeys((f"migration-{step}" for step in ("started", "finished", "failed")), "v52"),
    **dict.fromkeys((f"migration-receive-{step}" for step in ("started", "finished", "failed")), "v52"),
    "migration-receive-ready": "v53",
    "postcopy-migration-completed": "v53",
}


def chosen() -> str:
    """The one that the environment names."""
    name = os.environ.get(VARIABLE) or MAIN
    if name not in NUMBERS:
        print(f"cloud-hypervisor: simulator: {VARIABLE}={name} is none of {', '.join(ORDER)}", file=sys.stderr)
        raise SystemExit(2)
    return name


def has(version: str, since: str) -> bool:
    return ORDER.index(version) >= ORDER.index(since)


def missing_events(version: str) -> frozenset[str]:
    return frozenset(event for event, since in EVENTS.items() if not has(version, since))
