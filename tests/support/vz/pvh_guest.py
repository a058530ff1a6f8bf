"""Guests of a few bytes of machine code for x86_64, which need no image: started as a kernel by the PVH protocol."""

import pathlib
import struct

# Registers of the chipset's power management, where the firmware of QEMU's q35 puts them.
PM1_STATUS = 0x600
PM1_ENABLE = 0x602
PM1_CONTROL = 0x604
POWER_BUTTON = 0x0100
SLEEP_NOW = 0x2000

ENTRY = 0x100000


def out16(port: int, value: int) -> bytes:
    """mov dx, port; mov ax, value; out dx, ax (in 32-bit code)."""
    return b"\x66\xba" + struct.pack("<H", port) + b"\x66\xb8" + struct.pack("<H", value) + b"\x66\xef"


POWER_OFF = out16(PM1_CONTROL, SLEEP_NOW) + b"\xeb\xfe"
# Reads the power button until it is pressed: mov dx, port; in ax, dx; test ah, 1; jz back.
AWAIT_BUTTON = b"\x66\xba" + struct.pack("<H", PM1_STATUS) + b"\x66\xed" + b"\xf6\xc4\x01" + b"\x74\xf9"

# Stops at once.
HALTS = POWER_OFF
# Runs until the power button is pressed.
WAITS = out16(PM1_ENABLE, POWER_BUTTON) + AWAIT_BUTTON + POWER_OFF


def write_guest(path: pathlib.Path, code: bytes) -> pathlib.Path:
    """An ELF file with the code at ENTRY and the note by which PVH loaders find it."""
    note = struct.pack("<III", 4, 8, 18) + b"Xen\0" + struct.pack("<Q", ENTRY)
    headers = 64 + 2 * 56
    code_at = headers + len(note)
    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, ENTRY, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 4, 4, headers, 0, 0, len(note), len(note), 4)
    elf += struct.pack("<IIQQQQQQ", 1, 5, code_at, ENTRY, ENTRY, len(code), len(code), 1)
    path.write_bytes(elf + note + code)
    return path
