"""A stand-in for propolis-server: its HTTP interface in front of a guest that QEMU runs."""
