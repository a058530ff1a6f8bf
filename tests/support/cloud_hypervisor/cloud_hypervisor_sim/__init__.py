"""A stand-in for the cloud-hypervisor binary: its command line, API and events, with a QEMU guest behind them."""
