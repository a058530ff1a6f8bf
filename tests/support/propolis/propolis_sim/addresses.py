"""Socket addresses, in the one form that Rust's SocketAddr reads: a numeric address and a port."""

import ipaddress
import re

Address = tuple[str, int]


def parse_address(text: str) -> Address:
    """Raises ValueError."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})", text, re.ASCII)
    try:
        if found is None or int(found.group(3)) > 65535:
            raise ValueError
        host = ipaddress.IPv6Address(found.group(1)) if found.group(1) else ipaddress.IPv4Address(found.group(2))
    except ValueError:
        raise ValueError("invalid socket address syntax") from None
    return str(host), int(found.group(3))
