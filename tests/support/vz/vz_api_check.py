#!/usr/bin/env python3
"""Compares what the VZ helper uses of Virtualization.framework with a table of what the framework has.

Two things are read from clang, none by pattern from sources:
  * the declarations in include/Virtualization, from the syntax tree: classes with their superclasses, protocols, methods,
    enumerators with their values. Each must be in the table, or in the list of what was checked by hand, as all of
    Foundation is;
  * the helper's own sources, compiled for Apple's runtime to LLVM's code: the selectors they send or implement and the classes
    they refer to. Each must be declared.
The compiler itself refuses messages that a receiver's class does not declare (the syntax check treats warnings as errors), so a
message is right when the declarations are.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
from typing import Any, Iterator

# Enumerations: the table's file they stand in, and what precedes a value's name.
ENUMERATIONS = {
    "VZErrorCode": ("VZError", "VZError"),
    "VZVirtualMachineState": ("VZVirtualMachine", "VZVirtualMachineState"),
    "VZDiskImageCachingMode": ("VZDiskImageStorageDeviceAttachment", "VZDiskImageCachingMode"),
    "VZDiskImageSynchronizationMode": ("VZDiskImageStorageDeviceAttachment", "VZDiskImageSynchronizationMode"),
    "VZDiskSynchronizationMode": ("VZDiskSynchronizationMode", "VZDiskSynchronizationMode"),
    "VZLinuxRosettaAvailability": ("VZLinuxRosettaDirectoryShare", "VZLinuxRosettaAvailability"),
}
# Protocols that stand in another class's file.
PROTOCOL_FILES = {"VZVirtioSocketListenerDelegate": "VZVirtioSocketListener"}
# Selectors of the helper's own.
OWN_SELECTORS = {".cxx_construct", ".cxx_destruct"}


class Table:
    """Rows of vz-api.tsv: file, kind, name, superclass or value."""

    def __init__(self, paths: list[pathlib.Path]) -> None:
        self.rows: set[tuple[str, str, str]] = set()
        self.superclasses: dict[str, str] = {}
        self.ancestors: dict[str, list[str]] = {}
        self.values: dict[tuple[str, str], list[str]] = {}
        for line in paths[0].read_text().splitlines():
            if line.startswith("#") or not line:
                continue
            file, kind, name, extra = (line.split("\t") + [""])[:4]
            if kind == "selector":
                name = name.removesuffix("_")
            if kind == "class":
                self.superclasses[name] = extra.split(",")[0]
                self.ancestors[name] = extra.split(", ")
            if kind == "constant":
                self.values.setdefault((file, name), []).append(extra)
            self.rows.add((file, kind, name))
        self.by_hand: set[tuple[str, str, str]] = set()
        for line in paths[1].read_text().splitlines():
            if line.startswith("#") or not line:
                continue
            kind, owner, name, source = line.split("\t")
            if not source:
                raise SystemExit(f"{paths[1]}: no source is given for {name}")
            self.by_hand.add((owner, kind, name))

    def has(self, file: str, kind: str, name: str) -> bool:
        return (file, kind, name) in self.rows or (file, kind, name) in self.by_hand


def run_clang(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr}")
    return result.stdout


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("inner", []):
        yield from walk(child)


def constant_value(node: dict[str, Any]) -> str:
    for child in walk(node):
        if child.get("kind") in ("ConstantExpr", "IntegerLiteral") and "value" in child:
            return str(child["value"])
    return ""


class Declarations:
    """What the headers declare."""

    def __init__(self, clang: str, include: pathlib.Path) -> None:
        self.classes: dict[str, str] = {}
        self.protocols: set[str] = set()
        self.methods: set[tuple[str, str]] = set()
        self.selectors: set[str] = set()
        self.constants: list[tuple[str, str, str]] = []
        command = [
            clang,
            "-x",
            "objective-c",
            "-fblocks",
            "-fobjc-runtime=macosx-13",
            "-fsyntax-only",
            "-I",
            str(include),
        ]
        command += ["-Xclang", "-ast-dump=json", str(include / "Virtualization/Virtualization.h")]
        tree = json.loads(run_clang(command))
        for node in tree["inner"]:
            self.take(node)
        # The name of an enumeration is its typedef's, which follows it.
        for node, follower in zip(tree["inner"], tree["inner"][1:]):
            if node["kind"] == "EnumDecl" and follower["kind"] == "TypedefDecl":
                for value in node.get("inner", []):
                    if value["kind"] == "EnumConstantDecl":
                        self.constants.append((follower["name"], value["name"], constant_value(value)))

    def take(self, node: dict[str, Any]) -> None:
        if node["kind"] not in ("ObjCInterfaceDecl", "ObjCProtocolDecl") or node.get("isImplicit"):
            return  # the compiler's own, `Protocol`, is implicit
        if "inner" not in node and "super" not in node and node["kind"] == "ObjCInterfaceDecl":
            return  # announced by @class
        name = node["name"]
        if node["kind"] == "ObjCProtocolDecl":
            self.protocols.add(name)
        else:
            self.classes[name] = node.get("super", {}).get("name", "")
        for method in node.get("inner", []):
            if method["kind"] == "ObjCMethodDecl":
                self.methods.add((name, method["name"]))
                self.selectors.add(method["name"])


class Uses:
    """What a source compiles to."""

    def __init__(self, clang: str, include: pathlib.Path, source: pathlib.Path, flags: list[str]) -> None:
        command = [clang, "-x", "objective-c++", "-std=c++20", "-fblocks", "-fobjc-runtime=macosx-13", "-O0", "-S"]
        command += ["-emit-llvm", "-o", "-", "-I", str(include), *flags, str(source)]
        code = run_clang(command)
        names = set(re.findall(r'^@OBJC_METH_VAR_NAME_\S* = .* c"(.*)\\00"', code, re.MULTILINE))
        # Instance variables of the helper's own classes have their names in the same place.
        self.selectors = names - set(re.findall(r'^@"OBJC_IVAR_\$_\w+\.(\w+)"', code, re.MULTILINE))
        self.classes = set(re.findall(r'^@"OBJC_CLASS_\$_(\w+)" = external', code, re.MULTILINE))


def check(table: Table, declared: Declarations, uses: dict[str, Uses]) -> list[str]:
    wrong: list[str] = []

    def expect(file: str, kind: str, name: str, what: str) -> None:
        if not table.has(file, kind, name):
            wrong.append(f"{what} is not in the table")

    for name, superclass in sorted(declared.classes.items()):
        expect(name, "class", name, f"class {name}")
        real = table.superclasses.get(name)
        if real is not None and real != superclass:
            wrong.append(f"class {name} is declared as a subclass of {superclass}, and is one of {real}")
    for name in sorted(declared.protocols):
        expect(PROTOCOL_FILES.get(name, name), "protocol", name, f"protocol {name}")
    for owner, selector in sorted(declared.methods):
        expect(PROTOCOL_FILES.get(owner, owner), "selector", selector, f"{owner}'s selector {selector}")
    for enumeration, name, value in declared.constants:
        if not name.startswith("VZ"):
            continue
        file, prefix = ENUMERATIONS.get(enumeration, (enumeration, enumeration))
        short = name.removeprefix(prefix)
        expect(file, "constant", short, f"{enumeration}'s value {name}")
        values = table.values.get((file, short))
        if values is not None and value not in values:
            wrong.append(f"{name} is declared as {value}, and is {' or '.join(values)}")
    for source, used in uses.items():
        for selector in sorted(used.selectors - declared.selectors - OWN_SELECTORS):
            wrong.append(f"{source} uses the selector {selector}, which nothing declares")
        for name in sorted(used.classes - set(declared.classes)):
            wrong.append(f"{source} uses the class {name}, which nothing declares")
    return wrong


def check_coverage(table: Table, used: set[str], path: pathlib.Path) -> list[str]:
    """Compares what the helper uses of the framework's classes with what a list says of each, coverage.tsv."""
    wrong: list[str] = []
    listed: set[str] = set()
    for line in path.read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        name, how = line.split("\t")
        listed.add(name)
        what, _, detail = how.partition(": ")
        known = name in table.ancestors or any(kind == "protocol" and row == name for _, kind, row in table.rows)
        right = {
            "used": name in used,
            "base": detail in used and name in table.ancestors[detail],
            "protocol": known and detail in used,
            "made by the framework": known and name not in used,
            "left out": known and name not in used and detail != "",
            "not there": not known and detail != "",
        }
        if not right.get(what, False):
            wrong.append(f"{path.name} says of {name} \"{how}\", which is not so")
    for name in sorted(set(table.ancestors) - listed):
        wrong.append(f"{path.name} says nothing of {name}")
    return wrong


def main() -> int:
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(
        description="Compares the helper's use of Virtualization.framework with a table of it."
    )
    parser.add_argument("--clang", default="clang++-14")
    parser.add_argument("--include", type=pathlib.Path, default=here / "include")
    parser.add_argument("--table", type=pathlib.Path, default=here / "vz-api.tsv")
    parser.add_argument("--by-hand", type=pathlib.Path, default=here / "checked-by-hand.tsv")
    parser.add_argument("--coverage", type=pathlib.Path, help="what is to be used of all classes, by all sources")
    parser.add_argument("sources", type=pathlib.Path, nargs="*", help="the helper's .mm files")
    arguments = parser.parse_args()

    table = Table([arguments.table, arguments.by_hand])
    declared = Declarations(arguments.clang, arguments.include)
    uses = {source.name: Uses(arguments.clang, arguments.include, source, []) for source in arguments.sources}
    wrong = check(table, declared, uses)
    if arguments.coverage:
        wrong += check_coverage(table, {name for used in uses.values() for name in used.classes}, arguments.coverage)
    for line in wrong:
        print(line, file=sys.stderr)
    vz_methods = [method for method in declared.methods if method[0].startswith("VZ")]
    sent = {selector for used in uses.values() for selector in used.selectors}
    classes = {name for used in uses.values() for name in used.classes}
    print(
        f"{len(declared.classes)} classes, {len(vz_methods)} methods, {len(declared.constants)} constants declared; "
        f"{len(sent)} selectors, {len(classes)} classes used; {len(wrong)} wrong"
    )
    # Nothing found is nothing compared.
    if not vz_methods or not declared.constants or (uses and not (sent and classes)):
        print("the extraction found nothing", file=sys.stderr)
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
