#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing grows out of sight: lines of files and functions, includes of a file, no goto, a licence in every file."""

import re

from tree import Tap, read_lines, sources

FILE_LINES = 1200
FUNCTION_LINES = 100
OWN_INCLUDES = 15  # generated messages do not count

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
GOTO = re.compile(r"^\s*goto\s+\w+\s*;")


def functions(lines):
    """(line number, number of lines) of every function: what ends with a lone brace in the first column."""
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and line.endswith("{"):
            start = number
        elif line.startswith("}"):
            if line == "}" and start is not None:
                yield start, number - start + 1
            start = None


def main():
    tap = Tap()
    code = {path: read_lines(path) for path in sources(".c", ".h")}
    scripts = {path: read_lines(path) for path in sources(".py", ".sh", "meson.build", ".S", ".proto")}

    tap.check(f"no file over {FILE_LINES} lines",
              [f"{p}: {len(lines)} lines" for p, lines in (code | scripts).items() if len(lines) > FILE_LINES])
    tap.check(f"no function over {FUNCTION_LINES} lines",
              [f"{p}:{start}: {n} lines" for p, lines in code.items() for start, n in functions(lines)
               if n > FUNCTION_LINES])
    own = {p: [m.group(1) for m in map(INCLUDE.match, lines) if m and not m.group(1).endswith(".pb-c.h")]
           for p, lines in code.items()}
    tap.check(f"no file with more than {OWN_INCLUDES} own includes",
              [f"{p}: {len(names)} includes" for p, names in own.items() if len(names) > OWN_INCLUDES])
    tap.check("no goto", [f"{p}:{n}" for p, lines in code.items() for n, line in enumerate(lines, 1)
                          if GOTO.match(line)])
    tap.check("a licence in every file",
              [p for p, lines in (code | scripts).items()
               if not any("SPDX-License-Identifier" in line for line in lines[:3])])
    tap.end()


if __name__ == "__main__":
    main()
