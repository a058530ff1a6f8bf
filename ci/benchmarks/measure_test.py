#!/usr/bin/env -S python3 -B
"""What the benchmarks count, on a host whose clock and thief are the test's."""
import argparse
import os
import subprocess
import sys
import unittest

import measure

HERE = os.path.dirname(os.path.abspath(__file__))


class Host:
    """Time goes on by a second with each run, of which the next entry of `losses` is stolen."""

    def __init__(self, *losses):
        self.losses, self.now, self.lost = list(losses), 0.0, 0.0

    def series(self):
        return measure.Series(stolen=lambda: self.lost, clock=lambda: self.now)

    def measure(self):
        self.now += 1
        self.lost += self.losses.pop(0)
        return {"s": self.now}


class SeriesTest(unittest.TestCase):
    def test_quiet_runs_count_once(self):
        host = Host(0.1, 0.0)
        series = host.series()
        series.run("ours", host.measure)
        series.run("ours", host.measure)
        self.assertEqual(series.values, {"ours_s": [1, 2]})
        self.assertEqual((series.repeated, series.disturbed), (0, {}))

    def test_disturbed_run_is_repeated_and_not_counted(self):
        host = Host(0.2, 0.0)
        series = host.series()
        series.run("ours", host.measure)
        self.assertEqual(series.values, {"ours_s": [2]})
        self.assertEqual((series.repeated, series.disturbed), (1, {}))

    def test_run_that_stays_disturbed_counts_and_is_named(self):
        host = Host(0.0, 0.2, 0.3, 0.4, 0.0)
        series = host.series()
        for _ in range(3):
            series.run("ours", host.measure)
        self.assertEqual(series.values, {"ours_s": [1, 4, 5]})
        self.assertEqual(series.stolen, {"ours": [0.0, 0.4, 0.0]})
        self.assertEqual((series.repeated, series.disturbed), (2, {"ours": [1]}))


class RunsTest(unittest.TestCase):
    def test_fewer_than_five_are_refused(self):
        for text in ("4", "0", "-1", "many"):
            with self.assertRaisesRegex(argparse.ArgumentTypeError, f"{text}: must be 5 or more, since the figures are medians"):
                measure.number_of_runs(text)

    def test_five_and_more_are_taken(self):
        self.assertEqual([measure.number_of_runs("5"), measure.number_of_runs("12")], [5, 12])

    def test_benchmarks_refuse_them_before_anything_is_done(self):
        for name in ("boot", "fork"):
            argv = [sys.executable, "-B", f"{HERE}/{name}.py", "--program", "none", "--check", "--runs"]
            done = subprocess.run([*argv, "4"], stderr=subprocess.PIPE, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("4: must be 5 or more", done.stderr)
            self.assertEqual(subprocess.run([*argv, "5"]).returncode, 0)


if __name__ == "__main__":
    unittest.main()
