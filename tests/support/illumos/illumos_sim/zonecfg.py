"""zonecfg: what a zone is to be, given as one string of subcommands.

Source: zonecfg(8), and illumos-gate's usr/src/cmd/zonecfg/zonecfg.c (delete). Its other words are these by their sense.
"""

import getopt
import re
import shlex
from typing import Any

from .command import fail, not_simulated, state

RESOURCES = {
    "net": {"physical", "address", "allowed-address", "defrouter", "mac-addr", "global-nic"},
    "device": {"match"},
    "attr": {"name", "type", "value"},
    "dataset": {"name"},
    "fs": {"dir", "special", "raw", "type", "options"},
}
PROPERTIES = {"brand", "zonepath", "ip-type", "autoboot", "limitpriv", "bootargs", "pool", "hostid", "scheduling-class"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

Config = dict[str, Any]


class Session:
    """One invocation: a configuration in the making, which only `commit` (or the end) keeps."""

    def __init__(self, zone: str, existing: Config | None) -> None:
        self.zone = zone
        self.config = existing
        self.resource: tuple[str, dict[str, str]] | None = None
        self.changed = False
        self.deleted = False

    def need_config(self) -> Config:
        if self.config is None:
            fail(f"{self.zone}: No such zone configured\nUse 'create' to begin configuring a new zone.")
        return self.config

    def step(self, words: list[str]) -> None:
        handlers = {
            "create": self.create,
            "set": self.set,
            "add": self.add,
            "end": self.end,
            "cancel": self.cancel,
            "verify": self.verify,
            "commit": self.commit,
            "exit": self.verify,
            "delete": self.delete,
        }
        if words[0] in ("select", "remove", "clear", "export", "info", "revert"):
            not_simulated(f"zonecfg {words[0]}")
        if words[0] not in handlers:
            fail(f"zonecfg: unexpected '{words[0]}': syntax error")
        if self.resource is not None and words[0] not in ("set", "end", "cancel"):
            if words[0] != "add" or len(words) == 2:
                fail(f"zonecfg: {words[0]}: not allowed in the {self.resource[0]} resource scope")
        handlers[words[0]](words[1:])

    def create(self, words: list[str]) -> None:
        given, rest = getopt.getopt(words, "Fba:t:")
        flags = dict(given)
        if rest or "-a" in flags:
            not_simulated("zonecfg create -a")
        if self.config is not None and "-F" not in flags:
            fail(f"Zone {self.zone} already exists; cannot create.")
        self.config = {
            "brand": "ipkg",
            "zonepath": None,
            "ip-type": "exclusive",
            "state": "configured",
            "uuid": "",
            "id": None,
            "resources": [],
            "datasets": [],
        }
        self.changed = True

    def set(self, words: list[str]) -> None:
        config = self.need_config()
        key, equals, value = " ".join(words).partition("=")
        key, value = key.strip(), value.strip()
        if not equals:
            fail("zonecfg: set: syntax error")
        if self.resource is not None:
            if key not in RESOURCES[self.resource[0]]:
                fail(f"zonecfg: unexpected property '{key}' in the {self.resource[0]} resource scope")
            self.resource[1][key] = value
            return
        if key not in PROPERTIES:
            fail(f"zonecfg: unexpected property '{key}': syntax error")
        if key == "zonepath" and not value.startswith("/"):
            fail(f"{value} is not an absolute path.")
        if key == "ip-type" and value not in ("shared", "exclusive"):
            fail(f"ip-type must be 'shared' or 'exclusive', not {value}")
        if key in ("zonepath", "brand") and config["state"] != "configured":
            fail(f"Zone {self.zone} already installed; set {key} not allowed.")
        config[key] = value
        self.changed = True

    def add(self, words: list[str]) -> None:
        self.need_config()
        if len(words) != 1 or words[0] not in RESOURCES:
            fail(f"zonecfg: add: unknown resource '{' '.join(words)}'")
        self.resource = (words[0], {})

    def end(self, words: list[str]) -> None:
        if self.resource is None or words:
            fail("zonecfg: end: not in a resource scope")
        required = {"net": "physical", "device": "match", "attr": "name", "dataset": "name", "fs": "dir"}[
            self.resource[0]
        ]
        if required not in self.resource[1]:
            fail(f"{required} not specified")
        self.need_config()["resources"].append({"resource": self.resource[0], **self.resource[1]})
        self.resource, self.changed = None, True

    def cancel(self, words: list[str]) -> None:
        self.resource = None

    def verify(self, words: list[str]) -> None:
        config = self.need_config()
        if config["zonepath"] is None:
            fail(f"{self.zone}: Required property zonepath not set.")
        nets = [r for r in config["resources"] if r["resource"] == "net"]
        if config["ip-type"] == "exclusive" and any("address" in net for net in nets):
            fail("address cannot be specified for an exclusive IP type")
        if config["ip-type"] == "shared" and any("address" not in net for net in nets):
            fail("address required for a shared IP type")

    def commit(self, words: list[str]) -> None:
        self.verify(words)
        self.changed = False

    def delete(self, words: list[str]) -> None:
        config = self.need_config()
        if config["state"] != "configured":
            fail(f"Zone {self.zone} not in configured state; delete not allowed.")
        if words != ["-F"]:
            fail("Input not from terminal and -F not specified:\ndelete command ignored, exiting.")
        self.config, self.deleted, self.changed = None, True, False


def main(argv: list[str]) -> None:
    try:
        given, rest = getopt.getopt(argv, "z:f:R:")
    except getopt.GetoptError as error:
        fail(f"zonecfg: {error}", 2)
    flags = dict(given)
    if "-f" in flags or "-R" in flags or not rest:
        not_simulated("zonecfg without subcommands on its command line")
    zone = flags.get("-z")
    if zone is None:
        fail("zonecfg: a zone must be given by -z", 2)
    if not NAME.fullmatch(zone) or zone == "global" or zone.startswith("SUNW"):
        fail(f"{zone}: bogus zone name" if not NAME.fullmatch(zone) else f"zonecfg: zone {zone} cannot be configured")
    with state() as now:
        session = Session(zone, now["zones"].get(zone))
        for command in " ".join(rest).replace("\n", ";").split(";"):
            words = shlex.split(command)
            if words:
                session.step(words)
        if session.resource is not None:
            fail(f"zonecfg: the {session.resource[0]} resource is not ended")
        if session.changed:
            session.verify([])
        if session.deleted:
            now["zones"].pop(zone, None)
        if session.config is not None:
            now["zones"][zone] = session.config
