# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs unittest test cases and reports them as TAP, which meson counts one by one."""

import sys
import unittest


class TapResult(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.number = 0

    def line(self, ok, test, rest=""):
        self.number += 1
        print(f"{'ok' if ok else 'not ok'} {self.number} - {test.id().split('.', 1)[-1]}{rest}", flush=True)

    def complain(self, test, error):
        for line in self._exc_info_to_string(error, test).splitlines():
            print(f"# {line}", file=sys.stderr, flush=True)
        self.line(False, test)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.line(True, test)

    def addError(self, test, err):
        super().addError(test, err)
        self.complain(test, err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.complain(test, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line(True, test, f" # SKIP {reason}")


def main():
    """All test cases of the calling program."""
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    print(f"1..{suite.countTestCases()}", flush=True)
    result = TapResult()
    suite.run(result)
    sys.exit(0 if result.wasSuccessful() else 1)
