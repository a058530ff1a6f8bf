"""Checks of values against an OpenAPI 3.0 document, in the way serde reads them.

Only what the documents of propolis-server use is known; a document that uses more is refused when it is loaded, so that
nothing in it can be passed over in silence.
"""

import json
import re
from pathlib import Path
from typing import Any

KEYWORDS = {
    "$ref",
    "additionalProperties",
    "allOf",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "minItems",
    "minimum",
    "nullable",
    "oneOf",
    "properties",
    "required",
    "title",
    "type",
    "uniqueItems",
}
LIMITS = {"uint8": 2**8 - 1, "uint32": 2**32 - 1, "uint64": 2**64 - 1, "uint": 2**64 - 1}
HEX = "[0-9a-fA-F]"
HYPHENATED = rf"{HEX}{{8}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{12}}"
UUID = re.compile(rf"{HYPHENATED}|urn:uuid:{HYPHENATED}|\{{{HYPHENATED}\}}|{HEX}{{32}}")

Schema = dict[str, Any]


class SchemaError(Exception):
    """Says where in the value, and what is wrong there."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)


def is_uuid(text: str) -> bool:
    return UUID.fullmatch(text) is not None


def parse_json(text: bytes) -> Any:
    """JSON as serde_json reads it: no constants beyond the standard's, no field twice."""

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise SchemaError("", f"duplicate field `{next(n for n in names if names.count(n) > 1)}`")
        return found

    def constant(name: str) -> Any:
        raise SchemaError("", f"invalid number {name}")

    if not text.strip():
        raise SchemaError("", "EOF while parsing a value at line 1 column 0")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=fields, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise SchemaError("", f"invalid unicode code point: {error}") from error
    except json.JSONDecodeError as error:
        raise SchemaError("", f"{error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise SchemaError("", "recursion limit exceeded") from error


class Document:
    """One version of the interface."""

    def __init__(self, path: Path) -> None:
        self.content = json.loads(path.read_text())
        self.version: str = self.content["info"]["version"]
        self.schemas: dict[str, Schema] = self.content["components"]["schemas"]
        for name, schema in self.schemas.items():
            self._refuse_unknown(name, schema)

    def _refuse_unknown(self, where: str, schema: Schema) -> None:
        unknown = set(schema) - KEYWORDS
        if unknown:
            raise ValueError(f"{where}: keywords that are not checked: {', '.join(sorted(unknown))}")
        if "format" in schema and schema["format"] not in {*LIMITS, "uuid"}:
            raise ValueError(f"{where}: format {schema['format']} is not checked")
        inner = [*schema.get("properties", {}).values(), *schema.get("allOf", []), *schema.get("oneOf", [])]
        inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
        for part in inner:
            self._refuse_unknown(where, part)

    def without_component(self, kind: str) -> None:
        """Takes a kind of component out, for the versions before it came."""
        variants = self.schemas["Component"]["oneOf"]
        self.schemas["Component"] = self.schemas["Component"] | {
            "oneOf": [v for v in variants if v["properties"]["type"]["enum"] != [kind]]
        }

    def check_request(self, path: str, method: str, value: Any) -> None:
        body = self.content["paths"][path][method]["requestBody"]
        self.check(body["content"]["application/json"]["schema"], value)

    def check_reply(self, path: str, method: str, status: int, value: Any) -> None:
        """Raises for a status that the document does not know, too."""
        responses = self.content["paths"][path][method]["responses"]
        known = responses.get(str(status)) or responses.get(f"{status // 100}XX")
        if known is None:
            raise SchemaError("", f"status {status} is not among the documented {', '.join(responses)}")
        if "$ref" in known:
            known = self.content["components"]["responses"][known["$ref"].rsplit("/", 1)[1]]
        content = known.get("content", {}).get("application/json")
        if content is None:
            if value is not None:
                raise SchemaError("", "a body where none is documented")
            return
        if content["schema"].get("title") != "Null":
            self.check(content["schema"], value)
        elif value is not None:
            raise SchemaError("", "expected null")

    def check(self, schema: Schema, value: Any, path: str = "") -> None:
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"].rsplit("/", 1)[1]]
        if value is None and schema.get("nullable"):
            return
        for part in schema.get("allOf", []):
            self.check(part, value, path)
        if "oneOf" in schema:
            self._check_variant(schema["oneOf"], value, path)
        checks = {
            "object": self._check_object,
            "array": self._check_array,
            "string": self._check_string,
            "integer": self._check_integer,
            "boolean": self._check_boolean,
        }
        if "type" in schema:
            checks[schema["type"]](schema, value, path)

    def _check_variant(self, variants: list[Schema], value: Any, path: str) -> None:
        tag = next(
            (
                name
                for name in ("type", "method", "component", "version")
                if all("enum" in v.get("properties", {}).get(name, {}) for v in variants)
            ),
            None,
        )
        if tag is None:
            problems = []
            for variant in variants:
                try:
                    return self.check(variant, value, path)
                except SchemaError as error:
                    problems.append(str(error))
            raise SchemaError(path, f"data did not match any variant ({'; '.join(problems)})")
        if not isinstance(value, dict):
            raise SchemaError(path, f"invalid type: {kind_of(value)}, expected a tagged value")
        if tag not in value:
            raise SchemaError(path, f"missing field `{tag}`")
        names = [v["properties"][tag]["enum"][0] for v in variants]
        if value[tag] not in names:
            expected = ", ".join(f"`{n}`" for n in names)
            raise SchemaError(
                f"{path}.{tag}".lstrip("."), f"unknown variant `{value[tag]}`, expected one of {expected}"
            )
        self.check(variants[names.index(value[tag])], value, path)

    def _check_object(self, schema: Schema, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise SchemaError(path, f"invalid type: {kind_of(value)}, expected a struct or map")
        properties = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in value:
                raise SchemaError(path, f"missing field `{name}`")
        for name, field in value.items():
            inner = f"{path}.{name}".lstrip(".")
            if name in properties:
                if field is None and name not in schema.get("required", []) and "nullable" not in properties[name]:
                    raise SchemaError(inner, "invalid type: null")
                self.check(properties[name], field, inner)
            elif schema.get("additionalProperties") is False:
                expected = ", ".join(f"`{n}`" for n in properties)
                raise SchemaError(inner, f"unknown field `{name}`, expected one of {expected}")
            elif isinstance(schema.get("additionalProperties"), dict):
                self.check(schema["additionalProperties"], field, inner)

    def _check_array(self, schema: Schema, value: Any, path: str) -> None:
        if not isinstance(value, list):
            raise SchemaError(path, f"invalid type: {kind_of(value)}, expected a sequence")
        least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
        if not least <= len(value) <= most:
            raise SchemaError(path, f"invalid length {len(value)}, expected between {least} and {most}")
        for index, item in enumerate(value):
            self.check(schema["items"], item, f"{path}[{index}]")

    def _check_string(self, schema: Schema, value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise SchemaError(path, f"invalid type: {kind_of(value)}, expected a string")
        if "enum" in schema and value not in schema["enum"]:
            expected = ", ".join(f"`{n}`" for n in schema["enum"])
            raise SchemaError(path, f"unknown variant `{value}`, expected one of {expected}")
        if schema.get("format") == "uuid" and not is_uuid(value):
            raise SchemaError(path, f'UUID parsing failed: "{value}"')

    def _check_integer(self, schema: Schema, value: Any, path: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise SchemaError(path, f"invalid type: {kind_of(value)}, expected {schema.get('format', 'integer')}")
        if not schema.get("minimum", 0) <= value <= LIMITS[schema.get("format", "uint64")]:
            raise SchemaError(path, f"invalid value: integer `{value}`, expected {schema.get('format', 'integer')}")

    def _check_boolean(self, schema: Schema, value: Any, path: str) -> None:
        if not isinstance(value, bool):
            raise SchemaError(path, f"invalid type: {kind_of(value)}, expected a boolean")


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "floating point", str: "string", list: "sequence", dict: "map"}
    return names[type(value)] + (f" `{value}`" if isinstance(value, (bool, int, float, str)) else "")
