"""The demo, small: it holds for the service as it is, and it finds a planted fault."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from examples.message_service.audit import deliveries_of, wrong_inboxes
from examples.message_service.client import Receipt
from examples.message_service.crowd import CROWD, SESSIONS, inbox_rows, poster_of, session_of
from examples.message_service.demo import Plan, run_demo
from examples.message_service.distribution import Direct, Fanout, Scheduled, World, plan

ROOT = Path(__file__).parents[2]


def say_nothing(text: str) -> None:
    pass


async def test_under_the_killer_everything_accepted_is_stored_published_and_counted_once(tmp_path: Path) -> None:
    plan = Plan(count=400, clients=8, seed=3, kill_every=0.02, restarts_wanted=20)
    result = await run_demo(plan, tmp_path, say_nothing)
    assert result.findings.problems == ()
    assert result.findings.holds
    assert result.findings.accepted == 400
    assert result.restarts >= 20
    assert result.exit_status == 0


async def test_the_audit_finds_a_service_that_acknowledges_before_it_commits(tmp_path: Path) -> None:
    plan = Plan(
        count=300,
        clients=8,
        seed=3,
        kill_every=0.02,
        restarts_wanted=20,
        settle_within=3.0,
        server="tests.examples.faulty_server",
    )
    result = await run_demo(plan, tmp_path, say_nothing)
    assert not result.findings.holds
    assert result.findings.lost > 0


def test_the_demo_has_sessions_of_every_kind_and_its_posters_may_post() -> None:
    """Each way of distribution is exercised, and each message is posted by a member."""
    assert {type(plan(session.kind, session.members)) for session in SESSIONS} == {Direct, Fanout, Scheduled, World}
    for number in range(1000):
        assert poster_of(number) in (session_of(number).members or CROWD)
    assert deliveries_of(3) == 1 + len(CROWD) + 2


def test_the_audit_finds_what_is_missing_in_an_inbox_and_what_should_not_be_there() -> None:
    """Each row is held against the members of the message's session."""
    receipt = Receipt("k", "session-2", "7", "Hello.", 1)
    first, second = inbox_rows(session_of(2), 7)
    assert list(wrong_inboxes([receipt], [first, second])) == []
    assert list(wrong_inboxes([receipt], [first])) == [f"7: not delivered to {second[0]}"]
    stranger = list(wrong_inboxes([receipt], [first, second, ("eve", 7)]))
    assert stranger == ["7: delivered by mistake to eve"]


def test_ctrl_c_stops_the_demo_and_both_its_processes() -> None:
    command = [sys.executable, "-m", "examples.message_service.demo", "--count", "10000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert "the service runs at" in demo.stdout.readline()
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "everything has been stopped" in out
    assert err == ""
