"""Checks requests and replies against the published OpenAPI description of the chosen version."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from . import versions

FOLDER = Path(__file__).resolve().parent.parent
FILES = {"main": "cloud-hypervisor-openapi.yaml", "v53": "cloud-hypervisor-openapi-v53.yaml"}

# The description asks for a payload, the program takes a configuration without one and refuses it at boot.
LENIENT_REQUIRED = {("VmConfig", "payload")}


class Violation(Exception):
    """A message that the description does not allow."""


@cache
def _description(version: str) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # The descriptions of older versions differ in what versions.py tells.
    with (FOLDER / FILES.get(version, FILES["v53"])).open(encoding="utf-8") as file:
        return yaml.load(file, Loader=loader)


def operations(version: str) -> dict[str, str]:
    """Path to method."""
    return {path: next(iter(item)) for path, item in _description(version)["paths"].items()}


class _Checker:
    def __init__(self, schemas: dict[str, Any], request: bool, version: str) -> None:
        self.schemas = schemas
        self.request = request
        self.version = version

    def check(self, schema: dict[str, Any], value: Any, where: str, name: str = "") -> None:
        reference = schema.get("$ref")
        if reference:
            name = reference.rsplit("/", 1)[1]
            self.check(self.schemas[name], value, where, name)
            return
        kind = schema.get("type")
        if kind is not None:
            self._check_type(kind, value, where)
        if "enum" in schema and value not in schema["enum"]:
            raise Violation(f"{where}: {value!r} is none of {schema['enum']}")
        if kind == "integer" and not self.request and ".config." not in where:
            # What a request may not exceed is the program's own to refuse, in its words, and some of it is
            # refused at boot only: until then the configuration is shown as it was given.
            self._check_bounds(schema, value, where)
        elif kind == "array":
            for index, item in enumerate(value):
                self.check(schema["items"], item, f"{where}[{index}]")
        elif kind == "object":
            self._check_object(schema, value, where, name)

    def _check_type(self, kind: str, value: Any, where: str) -> None:
        python = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}[kind]
        if not isinstance(value, python) or (kind == "integer" and isinstance(value, bool)):
            raise Violation(f"{where}: {value!r} is not of type {kind}")

    def _check_bounds(self, schema: dict[str, Any], value: int, where: str) -> None:
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            raise Violation(f"{where}: {value} is out of range")

    def _check_object(self, schema: dict[str, Any], value: dict[str, Any], where: str, name: str) -> None:
        for key in schema.get("required", []):
            if key not in value and not (name, key) in LENIENT_REQUIRED:
                raise Violation(f"{where}: {key!r} is missing")
        properties = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        for key, item in value.items():
            since = versions.FIELDS.get((name, key), self.version)
            if self.request and not versions.has(self.version, since):
                raise Violation(f"{where}: {self.version} has no {key!r} yet")
            if key in properties:
                if item is not None or not self.request:
                    self.check(properties[key], item, f"{where}.{key}")
            elif isinstance(rest, dict):
                self.check(rest, item, f"{where}.{key}")


def _json_schema(content: dict[str, Any] | None) -> dict[str, Any] | None:
    return content["content"]["application/json"]["schema"] if content and "content" in content else None


def check_request(version: str, path: str, body: Any) -> None:
    description = _description(version)
    item = description["paths"][path]
    schema = _json_schema(next(iter(item.values())).get("requestBody"))
    if schema is not None:
        _Checker(description["components"]["schemas"], True, version).check(schema, body, path)


def check_reply(version: str, path: str, status: int, body: Any) -> None:
    """`body` is None when the reply has none."""
    description = _description(version)
    item = description["paths"][path]
    responses = {str(key): value for key, value in next(iter(item.values()))["responses"].items()}
    schema = _json_schema(responses.get(str(status)))
    if schema is None:
        if status < 300 and body is not None:
            raise Violation(f"{path}: a reply {status} has no body")
        return
    if body is None:
        raise Violation(f"{path}: a reply {status} needs a body")
    _Checker(description["components"]["schemas"], False, version).check(schema, body, path)
