"""ipadm: addresses, in the global zone or, through zlogin, in another.

Source: ipadm(8). Its words are these by their sense.
"""

import getopt
import ipaddress
import os

from .command import fail, not_simulated, show, state

COLUMNS = ["ADDROBJ", "TYPE", "STATE", "CURRENT", "PERSISTENT", "ADDR"]
SHOWN = ["ADDROBJ", "TYPE", "STATE", "ADDR"]
LOOPBACK = [("lo0/v4", "static", "127.0.0.1/8"), ("lo0/v6", "static", "::1/128")]


def links_of(zone: str) -> list[str]:
    with state() as now:
        if zone == "global":
            return [*now["links"], *now["vnics"]]
        return [r["physical"] for r in now["zones"][zone]["resources"] if r["resource"] == "net"]


def show_addr(zone: str, argv: list[str]) -> None:
    try:
        found, rest = getopt.gnu_getopt(argv, "po:", ["parsable", "parseable", "output="])
    except getopt.GetoptError as error:
        fail(f"ipadm: unrecognized option '{error.opt}'")
    given = {{"--parsable": "-p", "--parseable": "-p", "--output": "-o"}.get(n, n): v for n, v in found}
    if "-p" in given and "-o" not in given:
        fail("ipadm: -p requires -o")
    columns = SHOWN if "-o" not in given else COLUMNS if given["-o"] == "all" else given["-o"].upper().split(",")
    for column in columns:
        if column not in COLUMNS:
            fail(f"ipadm: unknown output field '{column.lower()}'")
    with state() as now:
        every = LOOPBACK + [(a["object"], a["type"], a["address"]) for a in now["addresses"] if a["zone"] == zone]
    chosen = [a for a in every if not rest or a[0] == rest[0] or a[0].split("/")[0] == rest[0].rstrip("/")]
    if rest and not chosen:
        fail(
            f"ipadm: address object '{rest[0]}': Object not found"
            if "/" in rest[0]
            else f"ipadm: interface '{rest[0]}' does not exist"
        )
    rows = [
        {"ADDROBJ": name, "TYPE": kind, "STATE": "ok", "CURRENT": "U----", "PERSISTENT": "---", "ADDR": address}
        for name, kind, address in chosen
    ]
    show(columns, rows, "-p" in given)


def create_addr(zone: str, argv: list[str]) -> None:
    try:
        found, rest = getopt.gnu_getopt(argv, "tT:a:dw:", ["temporary"])
    except getopt.GetoptError as error:
        fail(f"ipadm: unrecognized option '{error.opt}'")
    given = dict(found)
    if len(rest) != 1 or "/" not in rest[0] or "-T" not in given:
        fail("ipadm: usage: create-addr [-t] -T {static|dhcp|addrconf} [-a <addr>] <addrobj>")
    name = rest[0]
    if name.split("/")[0] not in links_of(zone):
        fail(f"ipadm: cannot create address object: interface '{name.split('/')[0]}' does not exist")
    if given["-T"] == "dhcp":
        address = os.environ.get("VMTEST_ILLUMOS_DHCP_ADDRESS", "10.0.2.15/24")
    elif given["-T"] == "static":
        address = given.get("-a", "").removeprefix("local=")
    else:
        not_simulated(f"ipadm create-addr -T {given['-T']}")
    try:
        ipaddress.ip_interface(address)
    except ValueError:
        fail(f"ipadm: Invalid address: {address}")
    with state() as now:
        if any(a["object"] == name and a["zone"] == zone for a in now["addresses"]):
            fail("ipadm: Could not create address: Address object already exists")
        now["addresses"].append({"object": name, "type": given["-T"], "address": address, "zone": zone})


def delete_addr(zone: str, argv: list[str]) -> None:
    rest = [word for word in argv if word not in ("-r", "--release")]
    with state() as now:
        kept = [a for a in now["addresses"] if not (rest == [a["object"]] and a["zone"] == zone)]
        if len(kept) == len(now["addresses"]):
            fail("ipadm: could not delete address: Object not found")
        now["addresses"] = kept


def main_in(zone: str, argv: list[str]) -> None:
    commands = {"show-addr": show_addr, "create-addr": create_addr, "delete-addr": delete_addr}
    if not argv:
        fail("usage:  ipadm <subcommand> <args> ...")
    if argv[0] not in commands:
        not_simulated(f"ipadm {argv[0]}")
    commands[argv[0]](zone, argv[1:])


def main(argv: list[str]) -> None:
    main_in("global", argv)
