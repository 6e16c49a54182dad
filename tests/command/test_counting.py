#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/lib/count_tests.py: no way a test can end is counted as a pass by mistake."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import tap

COUNTER = os.path.join(os.environ["SOURCE_ROOT"], "tools/lib/count_tests.py")


def count(tests, junit="<testsuites/>"):
    with tempfile.TemporaryDirectory() as work:
        with open(f"{work}/log.json", "w", encoding="utf-8") as log:
            log.writelines(json.dumps(test) + "\n" for test in tests)
        with open(f"{work}/log.xml", "w", encoding="utf-8") as log:
            log.write(junit)
        done = subprocess.run([sys.executable, COUNTER, f"{work}/log.json", f"{work}/log.xml", "suite"],
                              capture_output=True, text=True, check=True)
        first, *notes = done.stdout.splitlines()
        return [int(word) for word in first.split()], [note for note in notes if note]


def one(result, name="p:s / t", stdout=""):
    return {"name": name, "result": result, "stdout": stdout}


def tap_log(*cases, name="p:s / t"):
    return f'<testsuites><testsuite name="p.{name}">{"".join(cases)}</testsuite></testsuites>'


class Counting(unittest.TestCase):
    def test_results_of_plain_tests(self):
        for result, counts in {"OK": [1, 0, 0, 0], "EXPECTEDFAIL": [1, 0, 0, 0], "SKIP": [0, 0, 1, 0],
                               "FAIL": [0, 1, 0, 0], "TIMEOUT": [0, 1, 0, 0], "ERROR": [0, 1, 0, 0],
                               "INTERRUPT": [0, 1, 0, 0], "UNEXPECTEDPASS": [0, 1, 0, 0]}.items():
            with self.subTest(result):
                self.assertEqual(count([one(result)])[0], counts)

    def test_each_point_of_tap_counts(self):
        counts, notes = count([one("FAIL")], tap_log(
            '<testcase name="1 - a"/>', '<testcase name="2 - b"><skipped/></testcase>',
            '<testcase name="3 - c"><failure/></testcase>', '<testcase name="4 - d"/>'))
        self.assertEqual(counts, [2, 1, 1, 0])
        self.assertEqual(notes, ["skipped: suite: t: 2 - b", "failed: suite: t: 3 - c"])

    def test_death_after_passes_is_a_failure(self):
        counts, notes = count([one("ERROR")], tap_log('<testcase name="1 - a"/>'))
        self.assertEqual(counts, [1, 1, 0, 0])
        self.assertEqual(notes, ["failed: suite: t (error)"])

    def test_only_want_of_a_cpu_feature_excuses(self):
        self.assertEqual(count([one("SKIP", stdout="SKIP: this CPU has no AMX\n")])[0], [0, 0, 1, 1])
        self.assertEqual(count([one("SKIP", stdout="SKIP: needs root\n")])[0], [0, 0, 1, 0])
        junit = tap_log('<testcase name="1"><skipped/><system-out>this CPU is old</system-out></testcase>')
        self.assertEqual(count([one("OK")], junit)[0], [0, 0, 1, 1])


if __name__ == "__main__":
    tap.main()
