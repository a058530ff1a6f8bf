"""Versions of the interface: what a client may ask for, and which document describes that."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import bad_request
from .openapi import Document

HEADER = "api-version"
DATA = Path(__file__).resolve().parent.parent / "data"
KNOWN = ("1.0.0", "5.0.0")
IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
SEMVER = re.compile(rf"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-({IDENTIFIERS}))?(?:\+({IDENTIFIERS}))?", re.ASCII)


@dataclass(frozen=True)
class Version:
    core: tuple[int, int, int]
    pre_release: str
    build: str
    text: str

    def at_least(self, major: int) -> bool:
        other = (major, 0, 0)
        return self.core > other or self.core == other and not self.pre_release

    def at_most(self, newest: "Version") -> bool:
        """Of the newest version itself, a pre-release is older and a build is newer."""
        if self.core == newest.core:
            return bool(self.pre_release) or not self.build
        return self.core < newest.core


def parse(text: str) -> Version:
    """Raises ValueError with what is wrong."""
    found = SEMVER.fullmatch(text)
    if found is None:
        raise ValueError("empty string, expected a semver version" if not text else "not a semver version")
    major, minor, patch = (int(part) for part in found.group(1, 2, 3))
    pre_release, build = found.group(4) or "", found.group(5) or ""
    numeric = [i for i in pre_release.split(".") if i.isdigit()]
    if any(i != "0" and i.startswith("0") for i in numeric):
        raise ValueError("invalid leading zero in pre-release identifier")
    if max(major, minor, patch) >= 2**64:
        raise ValueError("value of version number exceeds u64::MAX")
    return Version((major, minor, patch), pre_release, build, text)


def requested(value: str | None, newest: Version) -> Version:
    """The version that a request names. Raises HttpError 400 when it names none that this server has."""
    if value is None:
        raise bad_request(f'missing expected header "{HEADER}"')
    try:
        version = parse(value)
    except ValueError as error:
        raise bad_request(f'bad value for header "{HEADER}": {error}: {value}') from error
    if not version.at_most(newest):
        raise bad_request(f"server does not support this API version: {value}")
    return version


@cache
def _document(name: str, vsock: bool) -> Document:
    document = Document(DATA / f"propolis-server-openapi-{name}.json")
    if not vsock:
        document.without_component("virtio_socket")
    return document


def document_for(version: Version) -> Document:
    if not version.at_least(2):
        return _document("1.0.0", True)  # which knows no virtio_socket anyway
    return _document("5.0.0", version.at_least(3))
