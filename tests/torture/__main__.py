"""Runs random scenarios: pipelines that stall, fail, are cancelled, and have too little of everything.

``PYTHONPATH=build/typing:tests python -m torture 0 2000`` runs the scenarios 0 to 1999; ``--part 1/2`` of them for the
first of two processes. A scenario that ends wrongly, leaves something behind or does not end is printed, and the
others go on; the last line counts them. They run in a process of their own, which the watchdog ends with the traceback
of all threads when one takes too long.
"""

from __future__ import annotations

import argparse
import faulthandler
import subprocess
import sys
from collections import Counter

from torture.running import judge
from torture.scenario import random_scenario

WATCHDOG_S = 60
"""Seconds that no scenario takes, unless it never ends."""
SAID, WRONG = "=", "!"


def work(seeds: range, watchdog_s: float) -> None:
    """Run scenarios in this process, and say on the standard output what becomes of each."""
    for seed in seeds:
        scenario = random_scenario(seed)
        faulthandler.dump_traceback_later(watchdog_s, exit=True)
        verdict = judge(scenario)
        faulthandler.cancel_dump_traceback_later()
        for problem in verdict.problems:
            print(f"{WRONG}{seed} {problem}", flush=True)
        print(f"{SAID}{seed} {verdict.fate}", flush=True)


class Count:
    """What became of the scenarios so far."""

    def __init__(self, watchdog_s: float) -> None:
        self._watchdog_s = watchdog_s
        self.fates: Counter[str] = Counter()
        self.wrong: list[int] = []
        self.hung: list[int] = []

    def run(self, seeds: range) -> None:
        """Run scenarios in another process, and again in another one those behind one that ended it."""
        while seeds:
            command = [sys.executable, "-m", "torture", str(seeds.start), str(seeds.stop)]
            command += ["--work", str(seeds.step), "--watchdog", str(self._watchdog_s)]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                assert process.stdout is not None
                done, said = 0, []
                for line in process.stdout:
                    said.append(line)
                    if line.startswith(SAID):
                        self._note(seeds[done], said)
                        done, said = done + 1, []
            if done < len(seeds):
                self.hung.append(seeds[done])
                self._show(seeds[done], said)
                done += 1
            seeds = seeds[done:]

    def _note(self, seed: int, said: list[str]) -> None:
        self.fates[said[-1].partition(" ")[2].strip()] += 1
        if len(said) > 1:
            self.wrong.append(seed)
            self._show(seed, said[:-1])

    def _show(self, seed: int, said: list[str]) -> None:
        sys.stdout.write(f"{random_scenario(seed)}\n{''.join(said)}\n")
        sys.stdout.flush()

    def __str__(self) -> str:
        fates = ", ".join(f"{count} {fate}" for fate, count in self.fates.most_common())
        return f"{fates}; {len(self.wrong)} wrong: {self.wrong}; {len(self.hung)} did not end: {self.hung}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int)
    parser.add_argument("--part", default="1/1", help="which part of how many, such as 1/2")
    parser.add_argument("--watchdog", type=float, default=WATCHDOG_S, help="seconds that a scenario may take")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(range(options.first, options.end, options.work), options.watchdog)
        return 0
    part, parts = map(int, options.part.split("/"))
    count = Count(options.watchdog)
    count.run(range(options.first + part - 1, options.end, parts))
    print(count)
    return 1 if count.wrong or count.hung else 0


if __name__ == "__main__":
    sys.exit(main())
