"""The command line grammar: which options exist, how often, with how many values, and what they require."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import NoReturn

USAGE_ERROR = 2

# One value, given once.
ONCE = "once"
# One or more values, option repeatable.
MANY = "many"
# No value, given once.
FLAG = "flag"
# No value, counted.
COUNT = "count"
# At most one value, given once.
MAYBE = "maybe"


@dataclass(frozen=True)
class Spec:
    arity: str
    group: str = ""
    default: str | None = None
    choices: tuple[str, ...] = ()


VM = "vm-config"
VMM = "vmm-config"
PAYLOAD = "vm-payload"
LOGGING = "logging"

OPTIONS: dict[str, Spec] = {
    "api-socket": Spec(ONCE, VMM),
    "balloon": Spec(ONCE, VM),
    "cmdline": Spec(ONCE, VM),
    "console": Spec(ONCE, VM, "tty"),
    "cpus": Spec(ONCE, VM, "boot=1,max_phys_bits=46"),
    "debug-console": Spec(ONCE, VM, "off,iobase=0xe9"),
    "device": Spec(MANY, VM),
    "disk": Spec(MANY, VM),
    "event-monitor": Spec(ONCE, VMM),
    "firmware": Spec(ONCE, PAYLOAD),
    "fs": Spec(MANY, VM),
    "generic-vhost-user": Spec(MANY, VM),
    "initramfs": Spec(ONCE, VM),
    "kernel": Spec(ONCE, PAYLOAD),
    "landlock": Spec(FLAG, VM),
    "landlock-rules": Spec(MANY, VM),
    "log-file": Spec(ONCE, LOGGING),
    "log-format": Spec(ONCE, LOGGING),
    "memory": Spec(ONCE, VM, "size=512M"),
    "memory-zone": Spec(MANY, VM),
    "net": Spec(MANY, VM),
    "no-shutdown": Spec(FLAG, VMM),
    "numa": Spec(MANY, VM),
    "pci-segment": Spec(MANY, VM),
    "platform": Spec(ONCE, VM),
    "pmem": Spec(MANY, VM),
    "pvpanic": Spec(FLAG, VM),
    "rate-limit-group": Spec(MANY, VM),
    "restore": Spec(ONCE, VMM),
    "rng": Spec(ONCE, VM, "src=/dev/urandom"),
    "rtc": Spec(MAYBE, VM),
    "seccomp": Spec(ONCE, "", "true", ("true", "false", "log", "errno")),
    "serial": Spec(ONCE, VM, "null"),
    "tpm": Spec(ONCE, VM),
    "user-device": Spec(MANY, VM),
    "v": Spec(COUNT, LOGGING),
    "vdpa": Spec(MANY, VM),
    "version": Spec(FLAG),
    "vsock": Spec(ONCE, VM),
    "watchdog": Spec(FLAG, VM),
    "help": Spec(FLAG),
}

SHORT = {"v": "v", "V": "version", "h": "help"}


@dataclass
class Arguments:
    values: dict[str, list[str]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def one(self, name: str) -> str | None:
        given = self.values.get(name)
        return given[0] if given else OPTIONS[name].default

    def many(self, name: str) -> list[str] | None:
        return self.values.get(name)

    @property
    def verbosity(self) -> int:
        return len(self.values.get("v", []))


def _refuse(message: str, usage: bool = True) -> NoReturn:
    lines = [f"error: {message}", ""]
    if usage:
        lines += ["Usage: cloud-hypervisor [OPTIONS]", ""]
    lines.append("For more information, try '--help'.")
    print("\n".join(lines), file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def _shown(name: str) -> str:
    if OPTIONS[name].arity in (FLAG, COUNT):
        return "-v" if name == "v" else f"--{name}"
    suffix = "..." if OPTIONS[name].arity == MANY else ""
    return f"--{name} <{name}>{suffix}"


def help_text() -> str:
    lines = ["Launch a cloud-hypervisor VMM.", "", "Usage: cloud-hypervisor [OPTIONS]", "", "Options:"]
    lines += [f"      {_shown(name)}" for name in OPTIONS if name != "v"]
    return "\n".join(lines)


class _Reader:
    def __init__(self, argv: list[str]) -> None:
        self.words = argv
        self.position = 0
        self.arguments = Arguments()

    def read(self) -> Arguments:
        while self.position < len(self.words):
            word = self.words[self.position]
            self.position += 1
            if word.startswith("--") and len(word) > 2:
                self._long(word[2:])
            elif word.startswith("-") and len(word) > 1 and word != "--":
                self._short(word[1:])
            else:
                _refuse(f"unexpected argument '{word}' found")
        return self.arguments

    def _long(self, text: str) -> None:
        name, equals, value = text.partition("=")
        if name not in OPTIONS or name == "v":
            _refuse(f"unexpected argument '--{name}' found")
        if equals and OPTIONS[name].arity == FLAG:
            _refuse(f"unexpected value '{value}' for '--{name}' found; no more were expected")
        self._store(name, [value] if equals else None)

    def _short(self, letters: str) -> None:
        for letter in letters:
            if letter not in SHORT:
                _refuse(f"unexpected argument '-{letter}' found")
            self._store(SHORT[letter], None)

    def _next_values(self, most: int | None) -> list[str]:
        values: list[str] = []
        while self.position < len(self.words) and (most is None or len(values) < most):
            word = self.words[self.position]
            if word.startswith("-") and word != "-":
                break
            values.append(word)
            self.position += 1
        return values

    def _store(self, name: str, attached: list[str] | None) -> None:
        spec = OPTIONS[name]
        already = name in self.arguments.values
        if already and spec.arity not in (MANY, COUNT):
            _refuse(f"the argument '{_shown(name)}' cannot be used multiple times")
        if spec.arity in (FLAG, COUNT):
            values = [""]
        else:
            values = attached if attached is not None else self._next_values(None if spec.arity == MANY else 1)
            if not values and spec.arity == MAYBE:
                values = [""]
            elif not values or (attached == [""] and spec.arity != MAYBE and spec.choices):
                _refuse(f"a value is required for '{_shown(name)}' but none was supplied", usage=False)
        for value in values:
            if spec.choices and value not in spec.choices:
                choices = ", ".join(spec.choices)
                _refuse(
                    f"invalid value '{value}' for '{_shown(name)}'\n  [possible values: {choices}]",
                    usage=False,
                )
        self.arguments.values.setdefault(name, []).extend(values)


def parse(argv: list[str]) -> Arguments:
    """Reads the command line; refuses as the real program does, with its exit status."""
    if not argv:
        print(help_text(), file=sys.stderr)
        raise SystemExit(USAGE_ERROR)
    if any(0xDC80 <= ord(char) <= 0xDCFF for word in argv for char in word):
        _refuse("invalid UTF-8 was detected in one or more arguments")
    arguments = _Reader(argv).read()
    if "help" in arguments:
        print(help_text())
        raise SystemExit(0)
    needs_payload = any(OPTIONS[name].group == VM for name in arguments.values)
    has_payload = any(OPTIONS[name].group == PAYLOAD for name in arguments.values)
    if needs_payload and not has_payload:
        _refuse(
            "the following required arguments were not provided:\n  <--firmware <firmware>|--kernel <kernel>>",
        )
    return arguments
