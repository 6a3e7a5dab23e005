"""Plant each fault in a copy, run the tests that must catch it: ``python -m tests.mutants [WORD...]``.

With words, only the mutants whose names contain one of them. Ends with status 1 if a mutant survives, or if its patch
does not match exactly once. A run that hangs has been caught as well: the tests' own hang guards, or in the end the
limit here, see to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants import MUTANTS
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("creche", "tests", "pyproject.toml")
SECONDS = 120  # real time for one mutant; the tests that are to catch it take a tenth of that without it


def main(words: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    with ThreadPoolExecutor(os.cpu_count()) as at_once:
        survivors = [
            mutant.name
            for mutant, was_caught in zip(chosen, at_once.map(caught, chosen), strict=True)
            if not was_caught
        ]
    say(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    for name in survivors:
        say(f"SURVIVED: {name}")
    return 1 if survivors or not chosen else 0


def caught(mutant: Mutant) -> bool:
    """Whether a test fails when the fault is there. Called in several threads."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        plant(mutant, copy)
        how = outcome_of_tests(mutant, copy)
    say(f"{'survived' if how is None else how:<10} {time.monotonic() - began:5.1f} s  {mutant.name}")
    return how is not None


def plant(mutant: Mutant, root: Path) -> None:
    """Apply the patch. Raises ValueError unless it matches exactly once."""
    path = root / mutant.path
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name!r}: its text is found {text.count(mutant.old)} times in {mutant.path}, not once"
        )
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def outcome_of_tests(mutant: Mutant, copy: Path) -> str | None:
    """How the fault was caught; None if it was not. Raises RuntimeError if the tests could not even be collected."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.caught_by]
    try:
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "hung"
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{mutant.name!r}: the tests did not run:\n{done.stdout}\n{done.stderr}")
    return "failed" if done.returncode else None


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
