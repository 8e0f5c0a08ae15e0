#!/usr/bin/env python3
"""Runs the Autobahn TestSuite's 517 cases against an echo endpoint and fails unless all are met.

    tests/autobahn/run.py ws://127.0.0.1:PORT/echo [--section N]... [--report DIRECTORY]

The daemon serves the endpoint when its configuration says `[test] echo = true`; tests/autobahn/ringcast.toml
has what else the cases need. Autobahn's own runner needs Python 2; kosoku runs the same case files under
Python 3 and is installed from PyPI into a virtual environment under `target/`.
"""

import argparse
import asyncio
import collections
import os
import pathlib
import subprocess
import sys
import time
import venv

KOSOKU = "kosoku==0.1.0"
# Cases in each section: a run that has silently skipped some must not pass.
CASES = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1, "12": 90, "13": 126}
# NON-STRICT is no pass here: invalid UTF-8 has to fail on the byte that makes it so (6.4). Nor is
# UNIMPLEMENTED: compression has to be agreed to in all of 12 and 13.
PASSES = {"OK", "INFORMATIONAL"}

TARGET = pathlib.Path(__file__).resolve().parents[2] / "target" / "autobahn"


def enter_venv() -> None:
    """Goes on in the environment that has the runner, which is made if it is not there yet."""
    environment = TARGET / "venv"
    python = environment / "bin" / "python"
    if pathlib.Path(sys.prefix) == environment:
        return
    if not (environment / "bin" / "kosoku").exists():
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", KOSOKU], check=True)
    os.execv(python, [python, *sys.argv])


def give_bytes(case: type) -> None:
    """The cases with compression hash what comes back, as they could when a string was bytes. The runner
    hands them a text, or a string with a character for each byte; Python 3 hashes neither."""
    on_message = case.onMessage

    def on_bytes(self, message, binary):
        if isinstance(message, str):
            message = message.encode("latin-1" if binary else "utf-8")
        on_message(self, message, binary)

    case.onMessage = on_bytes


def run(url: str, sections: list[str]) -> list:
    """The result of each case."""
    import kosoku
    from kosoku.cases import CASES as known

    for name, case in known.items():
        if name.split(".")[0] in ("12", "13"):
            give_bytes(case)
    cases = [f"{section}.*" for section in sections]
    try:
        return asyncio.run(kosoku.run_fuzzingclient(url, cases, concurrency=2))
    except kosoku.FailureError as failure:
        # What counts as a pass is decided here.
        return failure.results


def main(url: str, sections: list[str], report: pathlib.Path) -> int:
    started = time.monotonic()
    results = run(url, sections)
    from kosoku._report import write_reports

    write_reports(results, str(report))
    failed = [
        f"{case.case_id}: {case.behavior.value}, closing {case.behavior_close.value}: {case.result}"
        for case in results
        if not {case.behavior.value, case.behavior_close.value} <= PASSES
    ]
    ran = collections.Counter(case.case_id.split(".")[0] for case in results)
    failed += [
        f"section {section}: {ran[section]} of {CASES[section]} cases ran"
        for section in sections
        if ran[section] != CASES[section]
    ]
    kinds = collections.Counter(case.behavior.value for case in results)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print("\n".join(failed) or f"all {len(results)} cases passed")
    print(f"{counts}, in {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    enter_venv()
    parser = argparse.ArgumentParser(usage=__doc__.split("\n")[2].strip())
    parser.add_argument("url")
    parser.add_argument("--section", action="append", choices=CASES)
    parser.add_argument("--report", type=pathlib.Path, default=TARGET / "report")
    arguments = parser.parse_args()
    code = main(arguments.url, arguments.section or list(CASES), arguments.report)
    sys.stdout.flush()
    # The runner's own threads may abort an orderly end.
    os._exit(code)
