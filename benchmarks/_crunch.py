"""Work that keeps one core busy, for `benchmarks.processes`: imported by all processes that do it."""

from __future__ import annotations

import sys


def crunch(rounds: int) -> int:
    """Pure Python, some 20 ms for 200 000 rounds."""
    total = 0
    for number in range(rounds):
        total += number * number % 7
    return total


def main() -> None:
    """The control: so many tasks, one after the other, as soon as a line comes in."""
    tasks, rounds = map(int, sys.argv[1:])
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(tasks):
        crunch(rounds)
    print("done", flush=True)


if __name__ == "__main__":
    main()
