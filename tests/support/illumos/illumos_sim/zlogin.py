"""zlogin: a command in a running zone. Only commands that are themselves simulated can run there.

Source: zlogin(1), and illumos-gate's usr/src/cmd/zlogin/zlogin.c (usage, main) for the words and statuses of refusals.
"""

import getopt

from . import ipadm
from .command import fail, not_simulated, state


USAGE = "usage: zlogin [ -nQCES ] [ -e cmdchar ] [-l user] zonename [command [args ...] ]"


def main(argv: list[str]) -> None:
    try:
        given, rest = getopt.getopt(argv, "CEnQSe:l:")
    except getopt.GetoptError as error:
        fail(f"zlogin: {error}\n{USAGE}", 2)
    if not rest:
        fail(USAGE, 2)
    zone, command = rest[0], rest[1:]
    if any(name == "-C" for name, _ in given) or not command:
        not_simulated("zlogin to a console or a shell")
    if zone == "global":
        fail("zlogin: 'zlogin' not applicable to the global zone")
    with state() as now:
        if zone not in now["zones"]:
            fail(f"zlogin: zone '{zone}' unknown")
        current = now["zones"][zone]["state"]
    if current in ("configured", "incomplete"):
        fail(f"zlogin: cannot login to a zone which is '{current}'")
    if current != "running":
        fail(f"zlogin: login allowed only to running zones ({zone} is '{current}').")
    words = " ".join(command).split()  # the zone's shell takes the words apart, as a real one would
    if words[0].rpartition("/")[2] == "ipadm":
        return ipadm.main_in(zone, words[1:])
    if words[0] == "true":
        return None
    fail(f"sh: {words[0]}: not found", 127)
