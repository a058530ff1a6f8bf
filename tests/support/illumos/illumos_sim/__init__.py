"""Stand-ins for the commands by which illumos is asked for datasets, zones and links."""
