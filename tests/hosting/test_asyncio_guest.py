"""Trio as a guest of a plain asyncio loop, in a process of its own: other packages change what `asyncio.run` runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[2]


def test_asyncio_code_calls_an_actor_and_all_ends_in_order() -> None:
    """A value, a crash and a cancel arrive as Futures; a cancelled host waits until its guest has ended."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "programs.asyncio_service"],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "callback in a Trio task: False",
        "hello, world",
        "incarnation 1 has ended",
        "OutcomeUnknown because of RuntimeError('a bug in the greeter')",
        "hello, again",
        "the handler is cancelled",
        "hello, after it",
        "incarnation 2 has ended",
        "at the end: cancelled True",
        "the guest is cancelled and has ended",
        "after the end: RunFinishedError",
        "the loop has ended",
    ]
