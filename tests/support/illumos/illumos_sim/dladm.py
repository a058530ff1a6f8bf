"""dladm: VNICs over a network card.

Source: dladm(8), and illumos-gate's usr/src/cmd/dladm/dladm.c (vnic_fields, phys_fields, link_fields) for the columns. Its words are
these by their sense.
"""

import getopt
import re
import secrets

from .command import fail, not_simulated, show, state

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,29}[0-9]")
VNIC_COLUMNS = ["LINK", "OVER", "SPEED", "MACADDRESS", "MACADDRTYPE", "VID"]
PHYS_COLUMNS = ["LINK", "MEDIA", "STATE", "SPEED", "DUPLEX", "DEVICE"]
LINK_COLUMNS = ["LINK", "CLASS", "MTU", "STATE", "BRIDGE", "OVER"]


def options(argv: list[str], letters: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    try:
        found, rest = getopt.gnu_getopt(argv, letters, words)
    except getopt.GetoptError as error:
        fail(f"dladm: unrecognized option '{error.opt}'")
    short = {"--temporary": "-t", "--link": "-l", "--mac-address": "-m", "--output": "-o", "--parsable": "-p"}
    short |= {"--parseable": "-p", "--vlan": "-v", "--prop": "-P"}
    return {short.get(name, name): value for name, value in found}, rest


def mac_text(parts: list[int]) -> str:
    return ":".join(f"{part:x}" for part in parts)


def parse_mac(text: str) -> str:
    words = text.split(":")
    if len(words) != 6 or not all(re.fullmatch("[0-9A-Fa-f]{1,2}", word) for word in words) or int(words[0], 16) & 1:
        fail("dladm: invalid MAC address")
    return mac_text([int(word, 16) for word in words])


def create_vnic(argv: list[str]) -> None:
    given, rest = options(argv, "tl:m:v:p:R:", ["temporary", "link=", "mac-address=", "vlan=", "prop="])
    if len(rest) != 1 or "-l" not in given:
        fail("dladm: usage: dladm create-vnic [-t] -l <link> [-m <value> | auto] <vnic-link>")
    if {"-v", "-P", "-p", "-R"} & set(given):
        not_simulated("dladm create-vnic with VLANs or properties")
    name, link = rest[0], given["-l"]
    if not NAME.fullmatch(name) or len(name) > 31:
        fail(f"dladm: invalid link name '{name}'")
    with state() as now:
        if link not in now["links"]:
            fail(f"dladm: invalid link name '{link}'")
        if name in now["vnics"] or name in now["links"]:
            fail(f"dladm: vnic creation over {link} failed: object already exists")
        kind = "fixed" if given.get("-m", "auto") not in ("auto", "random", "factory") else "random"
        if kind == "fixed":
            mac = parse_mac(given["-m"])
            if any(other["mac"] == mac and other["over"] == link for other in now["vnics"].values()):
                fail(f"dladm: vnic creation over {link} failed: MAC address in use")
        else:
            mac = mac_text([2, 8, 0x20, *secrets.token_bytes(3)])
        now["vnics"][name] = {"over": link, "mac": mac, "kind": kind, "temporary": "-t" in given}


def delete_vnic(argv: list[str]) -> None:
    given, rest = options(argv, "tR:", ["temporary"])
    if len(rest) != 1:
        fail("dladm: usage: dladm delete-vnic [-t] <vnic-link>")
    with state() as now:
        if rest[0] not in now["vnics"]:
            fail(
                "dladm: vnic deletion failed: object not found"
                if rest[0] not in now["links"]
                else "dladm: vnic deletion failed: invalid argument"
            )
        for zone in now["zones"].values():
            if zone["state"] == "running" and any(r.get("physical") == rest[0] for r in zone["resources"]):
                fail("dladm: vnic deletion failed: link busy")
        del now["vnics"][rest[0]]


def columns_of(given: dict[str, str], known: list[str]) -> list[str]:
    if "-p" in given and "-o" not in given:
        fail("dladm: -p option requires -o")
    text = given.get("-o", "all")
    columns = known if text == "all" else text.upper().split(",")
    for column in columns:
        if column not in known:
            fail(f"dladm: unknown output field '{column.lower()}'")
    return columns


def show_vnic(argv: list[str]) -> None:
    given, rest = options(argv, "po:l:P", ["parsable", "parseable", "output=", "link="])
    columns = columns_of(given, VNIC_COLUMNS)
    with state() as now:
        if rest and rest[0] not in now["vnics"]:
            fail(f"dladm: invalid vnic name '{rest[0]}': object not found")
        rows = [
            {
                "LINK": name,
                "OVER": vnic["over"],
                "SPEED": "1000",
                "MACADDRESS": vnic["mac"],
                "MACADDRTYPE": vnic["kind"],
                "VID": "0",
            }
            for name, vnic in now["vnics"].items()
            if (not rest or name == rest[0]) and given.get("-l") in (None, vnic["over"])
        ]
    show(columns, rows, "-p" in given)


def show_phys(argv: list[str]) -> None:
    given, rest = options(argv, "po:P", ["parsable", "parseable", "output="])
    columns = columns_of(given, PHYS_COLUMNS)
    with state() as now:
        rows = [
            {"LINK": link, "MEDIA": "Ethernet", "STATE": "up", "SPEED": "1000", "DUPLEX": "full", "DEVICE": link}
            for link in now["links"]
            if not rest or link == rest[0]
        ]
    if rest and not rows:
        fail(f"dladm: link {rest[0]} is not valid")
    show(columns, rows, "-p" in given)


def show_link(argv: list[str]) -> None:
    given, rest = options(argv, "po:P", ["parsable", "parseable", "output="])
    columns = columns_of(given, LINK_COLUMNS)
    with state() as now:
        every = [(link, "phys", "--") for link in now["links"]]
        every += [(name, "vnic", vnic["over"]) for name, vnic in now["vnics"].items()]
    rows = [
        {"LINK": name, "CLASS": kind, "MTU": "1500", "STATE": "up", "BRIDGE": "--", "OVER": over}
        for name, kind, over in every
        if not rest or name == rest[0]
    ]
    if rest and not rows:
        fail(f"dladm: link {rest[0]} is not valid")
    show(columns, rows, "-p" in given)


def main(argv: list[str]) -> None:
    commands = {
        "create-vnic": create_vnic,
        "delete-vnic": delete_vnic,
        "show-vnic": show_vnic,
        "show-phys": show_phys,
        "show-link": show_link,
    }
    if not argv:
        fail("usage:  dladm <subcommand> <args> ...")
    if argv[0] not in commands:
        fail(f"dladm: unknown subcommand '{argv[0]}'")
    commands[argv[0]](argv[1:])
