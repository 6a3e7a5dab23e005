"""The tutorial: whoever follows it step by step sees what the page shows."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import creche
from creche.runtime.spec import ActorSpec
from tests.docs.session import Command, File, comparable, environment, output_of, save, steps_of
from tests.pages import programs_on

PAGE = "docs/tutorial.md"
PATIENCE = 60.0  # seconds for what takes a moment


def test_who_follows_it_sees_what_it_shows(tmp_path: Path) -> None:
    """Every file saved and every command typed in the order of the page, in one folder, as a reader does."""
    requests: list[Command] = []
    for step in steps_of(PAGE):
        if isinstance(step, File):
            save(step, tmp_path)
        elif step.line.startswith("curl "):
            requests.append(step)
        elif step.line.startswith("creche run "):
            assert step.output == []  # the page shows its log where it ends: see below
        else:
            if requests:
                check_service(requests, tmp_path)
                requests = []
            assert (step.line, output_of(step, tmp_path)) == (step.line, step.output)
    assert not requests


def test_the_options_that_it_shows_exist() -> None:
    """The one piece of code that is no program of its own."""

    class Poll(creche.Actor):
        def __init__(self, tally: object) -> None: ...

    shown = programs_on(PAGE, "text")[0]
    spec = eval(shown, {"creche": creche, "Poll": Poll, "tally": None})  # a page of our own
    assert isinstance(spec, ActorSpec)
    assert spec.child_options.name == "ballot-box"


def check_service(requests: list[Command], folder: Path) -> None:
    """Run the service, send the page's requests, stop it by Ctrl-C, and compare answers and log."""
    log: list[str] = []
    with running_service(folder, log) as address:
        for request in requests:
            assert (request.line, comparable(curl(request.line, address).splitlines())) == (
                request.line,
                request.output,
            )
    shown = programs_on(PAGE, "text")[-1].splitlines()
    assert comparable([line.replace(address, "127.0.0.1:8000") for line in log if "    | " not in line]) == comparable(
        shown
    )


@contextmanager
def running_service(folder: Path, log: list[str]) -> Iterator[str]:
    """The service as a process, on a free port; gives its address. In the end `log` has all lines that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "creche", "run", "service:app"],
        cwd=folder,
        env=environment(PORT="0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        log.append(process.stdout.readline().rstrip("\n"))
        assert "url=http://" in log[0]
        yield log[0].partition("url=http://")[2]
        process.send_signal(signal.SIGINT)
        output, complaints = process.communicate(timeout=PATIENCE)
        log.extend(output.splitlines())
        assert (process.returncode, complaints) == (0, "")
    finally:
        process.kill()
        process.communicate()


def curl(command: str, address: str) -> str:
    """What ``curl [-d data] url`` prints."""
    *options, url = shlex.split(command)[1:]
    data = None
    if options:
        option, text = options
        assert option == "-d"
        data = text.encode()
    try:
        with urllib.request.urlopen(url.replace("localhost:8000", f"http://{address}"), data, PATIENCE) as answer:
            return str(answer.read(), "utf-8")
    except urllib.error.HTTPError as refusal:
        with refusal:
            return str(refusal.read(), "utf-8")
