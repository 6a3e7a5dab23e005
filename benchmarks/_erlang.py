"""Erlang/OTP as a rival: one virtual machine with one scheduler, asked for a measurement at a time.

It runs `erlang/rival.erl`, which says what is measured. Without Erlang its figures are `Missing`.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import IO

from ._harness import Missing

SOURCE = Path(__file__).parent / "erlang" / "rival.erl"
HELP = "no erl and erlc here (Debian and Ubuntu: apt-get install --no-install-recommends erlang-base)"


class Erlang:
    """Starts on first use; ends with the ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._warm: set[str] = set()

    def __enter__(self) -> Erlang:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.communicate()  # it ends when its input does

    def measure(self, name: str, *numbers: int) -> list[float]:
        """The figures of one measurement. The first time it is run twice: code is loaded when it is first called."""
        process = self._process or self._start()
        if name not in self._warm:
            self._warm.add(name)
            self._ask(process, name, numbers)
        return self._ask(process, name, numbers)

    def _ask(self, process: subprocess.Popen[str], name: str, numbers: tuple[int, ...]) -> list[float]:
        into, out = _ends(process)
        into.write(f"{' '.join([name, *map(str, numbers)])}\n")
        into.flush()
        answer = out.readline()
        if not answer:
            raise RuntimeError(f"the Erlang program ended at {name} {numbers}; it ended with {process.wait()}")
        return [float(word) for word in answer.split()]

    def _start(self) -> subprocess.Popen[str]:
        erl, erlc = shutil.which("erl"), shutil.which("erlc")
        if erl is None or erlc is None:
            raise Missing(HELP)
        compiled = subprocess.run(
            [erlc, "-o", str(self._folder), str(SOURCE)], check=False, capture_output=True, text=True
        )
        if compiled.returncode:
            raise Missing(f"this Erlang does not compile {SOURCE.name}: {compiled.stdout.partition(chr(10))[0]}")
        self._process = subprocess.Popen(
            [erl, "+S", "1:1", "-noshell", "-pa", str(self._folder), "-s", SOURCE.stem, "main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self._process


def _ends(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
