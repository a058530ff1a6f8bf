"""The `key=value,key=[list]` grammar of option values, after Cloud Hypervisor's option_parser crate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any


class OptionError(Exception):
    """A value that does not follow the grammar."""


def split_commas(text: str) -> list[str]:
    """Splits at commas outside quotes and brackets; the quotes stay in the parts."""
    parts: list[str] = []
    current = ""
    depth = 0
    quoted = False
    for char in text.strip():
        if char == '"':
            quoted = not quoted
        elif quoted:
            pass
        elif char == "[":
            depth += 1
        elif char == "]":
            if depth == 0:
                raise OptionError(f"Invalid syntax: {text}")
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(current)
            current = ""
            continue
        current += char
    parts.append(current)
    if quoted or depth:
        raise OptionError(f"Invalid syntax: {text}")
    return parts


def dequote(text: str) -> str:
    out = ""
    quoted = False
    previous = ""
    for char in text:
        if char == '"':
            if previous == '"' and not quoted:
                out += '"'
            quoted = not quoted
        else:
            out += char
        previous = char
    return out


def to_toggle(text: str) -> bool:
    values = {"": False, "on": True, "off": False, "true": True, "false": False}
    return values[text.lower()]


def to_size(text: str) -> int:
    text = dequote(text).strip()
    shift = {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0)
    number = parse_integer(text.rstrip("KMG"), 64) << shift
    if number >= 1 << 64:
        raise ValueError(text)
    return number


def parse_integer(text: str, bits: int, signed: bool = False) -> int:
    if not re.fullmatch(r"\+?[0-9]+" if not signed else r"[+-]?[0-9]+", text):
        raise ValueError(text)
    number = int(text)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= number <= high:
        raise ValueError(text)
    return number


def integer(bits: int, signed: bool = False) -> Callable[[str], int]:
    return lambda text: parse_integer(dequote(text), bits, signed)


def integer_list(bits: int = 64) -> Callable[[str], list[int]]:
    def convert(text: str) -> list[int]:
        numbers: list[int] = []
        for part in text.strip().strip("[]").split(","):
            ends = [parse_integer(end, 64) for end in part.split("-")]
            if len(ends) > 2 or (len(ends) == 2 and ends[0] >= ends[1]):
                raise ValueError(part)
            for value in range(ends[0], ends[-1] + 1):
                numbers.append(parse_integer(str(value), bits))
        return numbers

    return convert


def string_list(text: str) -> list[str]:
    return split_commas(text.strip().strip("[]"))


def _split_pair(text: str) -> tuple[str, str]:
    """At the only `@` outside of quotes."""
    text = text.strip()
    quoted = False
    places = []
    for place, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char == "@" and not quoted:
            places.append(place)
    if len(places) != 1 or places[0] == 0:
        raise ValueError(text)
    return text[: places[0]], text[places[0] + 1 :]


def tuple_list(key: Callable[[str], Any], value: Callable[[str], Any]) -> Callable[[str], list[tuple[Any, Any]]]:
    """`[key@value,key@value]`."""

    def convert(text: str) -> list[tuple[Any, Any]]:
        text = text.strip()
        if not (text.startswith("[") and text.endswith("]")):
            raise ValueError(text)
        return [(key(left), value(right)) for left, right in map(_split_pair, split_commas(text[1:-1]))]

    return convert


def one_of(choices: dict[str, str]) -> Callable[[str], str]:
    return lambda text: choices[dequote(text).lower()]


class OptionParser:
    """Parses one option value; keys must be known beforehand."""

    def __init__(self, keys: Iterable[str], flags: Iterable[str] = ()) -> None:
        self.keys = set(keys)
        self.flags = set(flags)
        self.values: dict[str, str] = {}

    def parse(self, text: str) -> OptionParser:
        if not text.strip():
            return self
        for part in split_commas(text):
            key, equals, value = part.partition("=")
            if key in self.flags:
                self.values[key] = ""
            elif key not in self.keys:
                raise OptionError(f"Unknown option: {key}")
            elif not equals:
                raise OptionError(f"Invalid syntax: {part}")
            else:
                self.values[key] = value.strip()
        return self

    def is_set(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str) -> str | None:
        value = self.values.get(key)
        return dequote(value) if value else None

    def convert(self, key: str, conversion: Callable[[str], Any], default: Any = None) -> Any:
        value = self.values.get(key)
        if not value:
            return default
        try:
            return conversion(value)
        except (ValueError, KeyError, OptionError):
            raise OptionError(f"Unable to convert {value} for {key}") from None
