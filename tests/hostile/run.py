#!/usr/bin/env python3
"""What do hostile and heavy clients cost the others? Each scenario starts a daemon of its own on a free port of
127.0.0.1, does its worst, and holds a figure against a criterion.

  tests/hostile/run.py target/release/ringcast             all scenarios
  tests/hostile/run.py target/release/ringcast smuggling   those whose names contain a word
  tests/hostile/run.py --small target/debug/ringcast       smaller, and only what any machine has to pass

Standard library only. Each line is a row of the table in docs/reliability.md. Exit status 1: a criterion was not met.
"""
import argparse
import sys

import crowds
import framing
import load
import memory
from daemon import SCENARIOS, raise_file_limit


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("words", nargs="*", help="run scenarios whose names contain one of these")
    parser.add_argument("--small", action="store_true", help="small sizes, no criteria that depend on speed")
    args = parser.parse_args()
    raise_file_limit()
    rows, failed = [], 0
    for name, criterion, function, small in SCENARIOS:
        if args.words and not any(word in name for word in args.words):
            continue
        if args.small and small is None:
            continue
        try:
            is_met, figures = function(args.binary, **(small if args.small else {}))
        except Exception as error:  # a scenario that breaks has not met its criterion
            is_met, figures = False, f"{type(error).__name__}: {error}"
        failed += not is_met
        rows.append(f"| {name} | {criterion} | {figures} | {'met' if is_met else 'NOT MET'} |")
        print(rows[-1], flush=True)
    print(f"{len(rows)} scenarios, {failed} not met")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
