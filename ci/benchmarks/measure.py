"""What the benchmarks have in common: alternating runs, the time that the host's own hypervisor steals, and the report."""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

# A run during which more than this part of the time was stolen says nothing and is repeated.
STOLEN_LIMIT = 0.1
# How often a run is repeated for that; a host that is never quiet must not keep the benchmark for ever. What counts after so many
# repeats is named in the report.
MOST_REPEATS = 2
# A median of fewer says little.
LEAST_RUNS = 5


def say(text):
    print(text, file=sys.stderr, flush=True)


def stolen():
    """CPU seconds that were stolen from this machine so far, all CPUs together."""
    with open("/proc/stat") as f:
        return int(f.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


def host():
    model = ""
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True).stdout.splitlines()
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": platform.release(), "qemu": qemu[0] if qemu else ""}


def parse_arguments(parser):
    """Reads the command line of a benchmark, of which all have --runs and --check."""
    parser.add_argument("--runs", type=number_of_runs, default=LEAST_RUNS, help="how often each subject is measured, 5 or more")
    parser.add_argument("--check", action="store_true", help="look at the command line, and do nothing")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(0)
    return arguments


def number_of_runs(text):
    if not text.isdecimal() or int(text) < LEAST_RUNS:
        raise argparse.ArgumentTypeError(f"{text}: must be {LEAST_RUNS} or more, since the figures are medians")
    return int(text)


class Series:
    """The runs of each subject, and what was stolen meanwhile."""

    def __init__(self, stolen=stolen, clock=time.monotonic):
        self.values, self.stolen, self.repeated = {}, {}, 0
        # The runs that count although too much was stolen: by subject, their places in self.stolen, from 0.
        self.disturbed = {}
        self._stolen, self._clock = stolen, clock

    def run(self, name, measure):
        """Calls measure(), which returns a dictionary of numbers, until little was stolen; keeps the last result."""
        for attempt in range(MOST_REPEATS + 1):
            begin, before = self._clock(), self._stolen()
            result = measure()
            wall, lost = self._clock() - begin, self._stolen() - before
            quiet = lost <= STOLEN_LIMIT * wall
            say(f"  {name}: {json.dumps({k: round(v, 3) for k, v in result.items()})}, {wall:.1f} s, {lost:.2f} s stolen")
            if quiet or attempt == MOST_REPEATS:
                break
            self.repeated += 1
            say("  repeated: too much was stolen")
        for key, value in result.items():
            self.values.setdefault(f"{name}_{key}", []).append(value)
        self.stolen.setdefault(name, []).append(round(lost, 2))
        if not quiet:
            self.disturbed.setdefault(name, []).append(len(self.stolen[name]) - 1)
            say("  it counts all the same: this host is not quiet")

    def median(self, key):
        return statistics.median(self.values[key])

    def figures(self):
        return {key: {"unit": "s", "runs": [round(v, 4) for v in runs], "median": round(statistics.median(runs), 4)}
                for key, runs in self.values.items()}


def report(name, series, figures, ratios, extra=None):
    """Prints the report. `stolen` has the CPU seconds lost during each run that counts, `disturbed` the places therein (from 0) of
    runs that lost more than a tenth of their time, however often they were repeated; `repeated` says how often that was."""
    print(json.dumps({"bench": name, "host": host(), "figures": figures, "ratios": ratios, "stolen": series.stolen,
                      "disturbed": series.disturbed, "repeated": series.repeated, **(extra or {})}, indent=2))
