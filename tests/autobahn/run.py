#!/usr/bin/env python3
"""Runs the Autobahn TestSuite's cases against an echo endpoint and fails unless all are met.

    tests/autobahn/run.py ws://127.0.0.1:PORT/echo [REPORT_DIRECTORY]

The daemon serves the endpoint when its configuration says `[test] echo = true`. Autobahn's own
runner needs Python 2; kosoku runs the same case files under Python 3 and is installed from PyPI
into a virtual environment under `target/`. Left out are section 9, whose messages of up to 16 MiB
are over the daemon's bound on purpose, and 12 and 13, which test a compression that is off unless the
configuration says otherwise.
"""

import collections
import json
import pathlib
import subprocess
import sys
import venv

KOSOKU = "kosoku==0.1.0"
# Cases in each section: a run that has silently skipped some must not pass.
CASES = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "10": 1}
# NON-STRICT is no pass here: invalid UTF-8 has to fail on the byte that makes it so (6.4).
PASSES = {"OK", "INFORMATIONAL"}

TARGET = pathlib.Path(__file__).resolve().parents[2] / "target" / "autobahn"


def kosoku() -> pathlib.Path:
    """The runner, installed if it is not there yet."""
    program = TARGET / "venv" / "bin" / "kosoku"
    if not program.exists():
        venv.create(TARGET / "venv", with_pip=True)
        pip = [TARGET / "venv" / "bin" / "pip", "install", "--quiet", KOSOKU]
        subprocess.run(pip, check=True)
    return program


def main(url: str, report: pathlib.Path) -> int:
    report.mkdir(parents=True, exist_ok=True)
    index = report / "index.json"
    index.unlink(missing_ok=True)
    sections = [argument for section in CASES for argument in ("-i", f"{section}.*")]
    # Its exit code is not looked at: what counts as a pass is decided here.
    subprocess.run([kosoku(), *sections, "-o", report, url], check=False)
    if not index.exists():
        print("no report was written", file=sys.stderr)
        return 1

    (cases,) = json.loads(index.read_text()).values()
    failed = [
        f"{case}: {result['behavior']}, closing {result['behaviorClose']}"
        for case, result in cases.items()
        if not {result["behavior"], result["behaviorClose"]} <= PASSES
    ]
    ran = collections.Counter(case.split(".")[0] for case in cases)
    failed += [
        f"section {section}: {ran[section]} of {expected} cases ran"
        for section, expected in CASES.items()
        if ran[section] != expected
    ]
    print("\n".join(failed) or f"all {len(cases)} cases passed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    report = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else TARGET / "report"
    sys.exit(main(sys.argv[1], report))
