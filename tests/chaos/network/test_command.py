"""``creche proxy``: a process with options, told in lines of JSON."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from creche.chaos.network import Corrupt, Cut, Latency, Rate, Reset, Slicer, Stall
from creche.chaos.network.command import address, fill, size

ROOT = Path(__file__).parents[3]
PIPE = subprocess.PIPE


@contextmanager
def command(*options: str) -> Iterator[subprocess.Popen[str]]:
    """The process, ended with the block."""
    line = [sys.executable, "-m", "creche", "proxy", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(line, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def said_by(started: subprocess.Popen[str]) -> Any:
    assert started.stdout is not None
    return json.loads(started.stdout.readline())


def told(started: subprocess.Popen[str], line: str) -> Any:
    """The answer to a line."""
    assert started.stdin is not None
    started.stdin.write(line + "\n")
    started.stdin.flush()
    return said_by(started)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """It listens, and whoever asks it accepts."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(10)
        yield listening


def upstream(server: socket.socket) -> str:
    return "{}:{}".format(*server.getsockname())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(server: socket.socket, number: signal.Signals) -> None:
    """Also when there is nobody who could tell it anything more."""
    with command("--upstream", upstream(server)) as proxy:
        listening = said_by(proxy)
        assert listening["upstream"] == list(server.getsockname())
        assert proxy.stdin is not None
        proxy.stdin.close()
        with socket.create_connection(tuple(listening["listening"]), timeout=10) as client:
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"x")
                assert accepted.recv(10) == b"x"
        proxy.send_signal(number)
        assert proxy.wait(10) == 0
        assert proxy.stderr is not None
        assert proxy.stderr.read() == ""


def test_options_are_faults(server: socket.socket) -> None:
    options = "--latency 100ms --jitter 20ms --rate 1.5MB/s --cut-after 64KiB --reset-after 1m --seed 1"
    common = ("--direction", "upstream", "--toxicity", "0.5")
    half_open = ("--fault", '{"kind": "half_open", "gone": "client", "toxicity": 1.0}')
    with command("--upstream", upstream(server), *common, *options.split(), *half_open) as proxy:
        said_by(proxy)
        faults = told(proxy, '{"do": "faults"}')["ok"]
    held = {"direction": "upstream", "toxicity": 0.5, "name": ""}
    whole = {"direction": "both", "toxicity": 0.5, "name": ""}
    assert faults == [
        {"kind": "latency", "seconds": 0.1, "jitter": 0.02, **held},
        {"kind": "rate", "bytes_per_second": 1.5e6, **held},
        {"kind": "cut", "after": 65536, "how": "reset", **held},
        {"kind": "reset", "after": 60.0, **whole},
        {"kind": "half_open", "gone": "client", **whole, "toxicity": 1.0},
    ]


def test_direction_and_toxicity_hold_for_what_follows() -> None:
    """Also for faults in JSON, but for what those say themselves; the last one of a name counts."""
    parser = argparse.ArgumentParser()
    fill(parser)
    line = """--upstream h:1 --rate 1 --toxicity 0.5 --cut-after 1 --direction downstream --cut-after 2 --latency 2s
        --fault {"kind":"stall"} --direction upstream --fault {"kind":"stall","toxicity":1} --slice 1 --latency 1s
        --fault {"kind":"corrupt","at":1,"direction":"both"} --toxicity 0 --reset-after 1s --jitter 1s"""
    assert parser.parse_args(line.split()).faults == (
        Rate(1.0),
        Cut(1, toxicity=0.5),
        Cut(2, toxicity=0.5, direction="downstream"),
        Latency(2.0, toxicity=0.5, direction="downstream"),
        Stall(toxicity=0.5, direction="downstream"),
        Stall(toxicity=1.0, direction="upstream"),
        Slicer(1, toxicity=0.5, direction="upstream"),
        Latency(1.0, toxicity=0.5, direction="upstream"),
        Corrupt(at=1, toxicity=0.5),
        Reset(1.0, toxicity=0.0),
    )


def test_it_goes_on_when_nobody_reads_what_it_says(server: socket.socket) -> None:
    """As in ``creche proxy … | head -1``. It still obeys."""
    with command("--upstream", upstream(server)) as proxy:
        listening = tuple(said_by(proxy)["listening"])
        assert proxy.stdout is not None
        assert proxy.stdin is not None
        proxy.stdout.close()
        for _ in range(2):
            proxy.stdin.write('{"do": "faults"}\n')
        proxy.stdin.write('{"do": "add", "fault": {"kind": "cut", "after": 3, "how": "close"}}\n')
        proxy.stdin.close()
        assert _cut_after_three(listening, server)
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait(10) == 0
        assert proxy.stderr is not None
        assert proxy.stderr.read() == ""


def _cut_after_three(listening: tuple[str, int], server: socket.socket) -> bool:
    """Whether the fault is in force, or will be soon."""
    for _ in range(100):
        with socket.create_connection(listening, timeout=10) as client:
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"four")
                client.shutdown(socket.SHUT_WR)
                if b"".join(iter(lambda: accepted.recv(10), b"")) == b"fou":  # noqa: B023
                    return True
    return False


def test_it_is_told_in_lines_of_json(server: socket.socket) -> None:
    with command("--upstream", upstream(server)) as proxy:
        listening = tuple(said_by(proxy)["listening"])
        corrupt = '{"kind": "corrupt", "at": 0}'
        assert told(proxy, f'{{"do": "set", "faults": [{corrupt}]}}') == {"ok": ["corrupt"]}
        with socket.create_connection(listening, timeout=10) as client:
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"\0")
                (byte,) = accepted.recv(10)
                assert byte.bit_count() == 1
                assert told(proxy, '{"do": "cut"}') == {"ok": 1}
                with pytest.raises(ConnectionResetError):
                    client.recv(10)
        assert told(proxy, '{"do": "remove", "name": "corrupt"}') == {"ok": True}
        assert told(proxy, '{"do": "remove", "name": "corrupt"}') == {"ok": False}
        assert told(proxy, '{"do": "add", "fault": {"kind": "slow_close", "seconds": 1}}') == {"ok": "slow_close"}
        assert told(proxy, '{"do": "clear"}') == {"ok": True}
        assert told(proxy, '{"do": "blackhole", "direction": "upstream"}') == {"ok": True}
        assert told(proxy, '{"do": "refuse"}') == {"ok": True}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listening, timeout=10)
        assert told(proxy, '{"do": "accept"}') == {"ok": True}
        statistics = told(proxy, '{"do": "statistics"}')["ok"]
        assert (statistics["total"], statistics["struck"], statistics["listening"]) == (1, {"corrupt": 1}, True)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("faults", "JSON is malformed"),
        ('{"do": "dance"}', "Invalid value 'dance' - at `$.do`"),
        ('{"do": "cut", "hwo": "reset"}', "Object contains unknown field `hwo`"),
        ('{"do": "add", "fault": {"kind": "latency"}}', "Object missing required field `seconds` - at `$.fault`"),
        ('{"do": "add", "fault": {"kind": "rate", "bytes_per_second": -1}}', "Rate.bytes_per_second = -1.0: a number"),
    ],
)
def test_what_it_does_not_understand_changes_nothing(server: socket.socket, line: str, complaint: str) -> None:
    with command("--upstream", upstream(server), "--slice", "4") as proxy:
        said_by(proxy)
        assert told(proxy, line)["error"].startswith(complaint)
        assert [fault["kind"] for fault in told(proxy, '{"do": "faults"}')["ok"]] == ["slicer"]


@pytest.mark.parametrize(
    ("options", "complaint", "status"),
    [
        (("--upstream", "redis"), "argument --upstream: 'redis': write host:port", 2),
        (("--upstream", "h:1", "--rate", "1XB"), "argument --rate: '1XB': write bytes, or a number with kB", 2),
        (("--upstream", "h:1", "--latency", "soon"), "argument --latency: not a duration", 2),
        (("--upstream", "h:1", "--jitter", "1s"), "creche proxy: --jitter needs a --latency", 2),
        (("--upstream", "h:1", "--latency", "1s", "--jitter", "2s"), "creche proxy: Latency.jitter = 2.0", 2),
        (("--upstream", "h:1", "--toxicity", "2"), "argument --toxicity: '2': write a number from 0 to 1", 2),
        (("--upstream", "h:1", "--toxicity", "nan"), "argument --toxicity: 'nan': write a number from 0 to 1", 2),
        (("--upstream", "h:1", "--toxicity", "often"), "argument --toxicity: could not convert", 2),
        (("--upstream", "h:1", "--direction", "up"), "argument --direction: invalid choice: 'up'", 2),
        (("--upstream", "h:1", "--rate", "0"), "argument --rate: Rate.bytes_per_second = 0.0: more than 0", 2),
        (("--upstream", "redis..local:1"), "creche proxy: upstream = ('redis..local', 1): a host whose labels", 2),
        (("--upstream", "h:0"), "creche proxy: upstream = ('h', 0): host and port", 2),
        (("--upstream", "h:1", "--listen", "192.0.2.1:1"), "cannot listen on 192.0.2.1:1", 1),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(options: tuple[str, ...], complaint: str, status: int) -> None:
    with command(*options) as proxy:
        out, err = proxy.communicate(timeout=30)
    assert (proxy.returncode, out) == (status, "")
    assert complaint in err


def test_addresses_and_sizes() -> None:
    assert address("[::1]:80") == ("::1", 80)
    assert [size(text) for text in ("10", "10B", "1kB", "1KiB/s", "2.5 MB/s", "1Gi")] == [
        10,
        10,
        1e3,
        1024,
        2.5e6,
        2**30,
    ]
    for text in (":80", "host", "host:", "host:x"):
        with pytest.raises(ValueError, match="write host:port"):
            address(text)
