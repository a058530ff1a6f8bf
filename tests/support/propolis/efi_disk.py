#!/usr/bin/python3
"""Makes a disk that the firmware boots a kernel from, for images that have no boot loader.

    efi_disk.py KERNEL INITRD "COMMAND LINE" DISK

The kernel is a bzImage with an EFI stub, as Debian's are. The disk is one FAT file system, with a script for the
firmware's shell that runs after five seconds (at once when a key is pressed).
"""

import subprocess
import sys
import tempfile
from pathlib import Path

MIB = 1024 * 1024


def has_efi_stub(kernel: Path) -> bool:
    with open(kernel, "rb") as file:
        head = file.read(0x206)
    return head[:2] == b"MZ" and head[0x202:0x206] == b"HdrS"


def make(kernel: Path, initrd: Path, command_line: str, disk: Path) -> None:
    """Raises ValueError for a kernel that no firmware can run, CalledProcessError when mtools fail."""
    if not has_efi_stub(kernel):
        raise ValueError(f"{kernel} is no bzImage with an EFI stub")
    size = kernel.stat().st_size + initrd.stat().st_size
    with open(disk, "xb") as file:
        file.truncate((size // MIB + 34) * MIB)  # FAT32 has a least size of 33 MiB
    subprocess.run(["mformat", "-F", "-i", disk, "::"], check=True)
    with tempfile.NamedTemporaryFile("w", newline="") as script:
        script.write(f"fs0:\r\nlinux.efi initrd=\\initrd {command_line}\r\n")
        script.flush()
        for source, name in ((kernel, "linux.efi"), (initrd, "initrd"), (Path(script.name), "startup.nsh")):
            subprocess.run(["mcopy", "-i", disk, source, f"::{name}"], check=True)


def main(argv: list[str]) -> int:
    if len(argv) != 4:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        make(Path(argv[0]), Path(argv[1]), argv[2], Path(argv[3]))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"efi_disk: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
