"""The message service over HTTP: what it accepts, what it refuses, and how it says so."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import creche
from creche import components as c
from examples.message_service.app import Service, Settings, build
from examples.message_service.errors import HTTP_STATUS, ErrorCode, response_for
from examples.message_service.http_client import HttpClient, Reply
from examples.message_service.model import Session, User

MESSAGE = {"user_id": "ada", "content": "Good morning."}


class Client:
    """Requests to a running service, as JSON."""

    def __init__(self, url: str, runtime: creche.Runtime, service: Service) -> None:
        self.http = HttpClient(url)
        self.runtime = runtime
        self.service = service

    async def post(
        self, body: object, key: str | None = "k1", session: str = "s1", headers: Mapping[str, str] | None = None
    ) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {} if key is None else {"X-Idempotency-Key": key}
        return await self.http.request("POST", f"/sessions/{session}/messages", {**sent, **(headers or {})}, data)

    async def get(self, path: str) -> tuple[int, Any]:
        reply = await self.http.request("GET", path)
        return reply.status, json.loads(reply.body)

    async def wait_for_count(self, session: str, count: int) -> None:
        with trio.fail_after(20):
            while (await self.get(f"/sessions/{session}/count"))[1] != {"count": count}:
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def running_service(data: Path, kill_every: float = 0.0) -> AsyncGenerator[Client]:
    """The whole service on a free port."""
    service = build(Settings(data, port=0, kill_every=kill_every))
    async with service.app.open() as running:
        host, port = await service.http.address()
        client = Client(f"http://{host}:{port}", running.runtime, service)
        await service.repository.save_users([User("ada", "Ada"), User("grace", "Grace")])
        await service.repository.save_session(Session("s1", "single", ("ada", "grace")))
        yield client
        await client.http.close()


def error_of(reply: Reply) -> tuple[int, str, str]:
    error = json.loads(reply.body)["error"]
    return reply.status, error["code"], error["message"]


async def test_a_message_is_stored_read_published_and_counted(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        reply = await client.post(MESSAGE)
        answer = json.loads(reply.body)
        assert (reply.status, answer["success"]) == (200, True)
        status, page = await client.get("/sessions/s1/messages")
        assert status == 200
        (stored,) = page["messages"]
        assert (stored["message_id"], stored["content"]) == (answer["message_id"], MESSAGE["content"])
        await client.wait_for_count("s1", 1)


async def test_a_retry_with_the_same_key_gets_the_stored_answer(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        first = await client.post(MESSAGE)
        assert (await client.post(MESSAGE)).body == first.body
        assert len((await client.get("/sessions/s1/messages"))[1]["messages"]) == 1


async def test_a_retry_gets_the_stored_answer_after_a_restart_of_the_service(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        first = await client.post(MESSAGE)
    async with running_service(tmp_path) as client:
        assert (await client.post(MESSAGE)).body == first.body
        await client.wait_for_count("s1", 1)


async def test_a_key_that_was_used_for_another_message_is_a_conflict(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        await client.post(MESSAGE)
        status, code, _ = error_of(await client.post({**MESSAGE, "content": "Good night."}))
        assert (status, code) == (409, "KEY_CONFLICT")


async def test_concurrent_posts_with_one_key_store_one_message(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        bodies: set[bytes] = set()

        async def post() -> None:
            other = Client(
                f"http://127.0.0.1:{(await client.service.http.address())[1]}", client.runtime, client.service
            )
            bodies.add((await other.post(MESSAGE)).body)
            await other.http.close()

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(post)
        assert len(bodies) == 1


BAD_BODIES = {
    "malformed": (b"{", "not valid JSON"),
    "not utf-8": (b'{"user_id": "\xff", "content": "x"}', "body: "),
    "missing": ({"user_id": "ada"}, "missing required field `content`"),
    "wrong type": ({"user_id": 3, "content": "x"}, "Expected `str`, got `int` - at `$.user_id`"),
    "empty": ({"user_id": "ada", "content": ""}, "length >= 1"),
    "too long": ({"user_id": "ada", "content": "x" * 4001}, "length <= 4000"),
    "unknown field": ({**MESSAGE, "colour": "red"}, "unknown field `colour`"),
    "no object": ([1], "Expected `object`, got `array`"),
}


@pytest.mark.parametrize(("body", "complaint"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_bad_input_gets_400_and_says_what_is_wrong(tmp_path: Path, body: object, complaint: str) -> None:
    async with running_service(tmp_path) as client:
        status, code, message = error_of(await client.post(body))
        assert (status, code) == (400, "INVALID_INPUT")
        assert complaint in message


async def test_an_oversize_body_gets_413(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        status, code, message = error_of(await client.post(b"x" * 70_000))
        assert (status, code) == (413, "TOO_LARGE")
        assert "65536" in message


@pytest.mark.parametrize("key", [None, "", "with space", "x" * 129])
async def test_a_missing_or_wrong_idempotency_key_gets_400(tmp_path: Path, key: str | None) -> None:
    async with running_service(tmp_path) as client:
        status, _, message = error_of(await client.post(MESSAGE, key=key))
        assert status == 400
        assert "X-Idempotency-Key" in message


@pytest.mark.parametrize("query", ["limit=-1", "limit=501", "limit=x", "after=99999999999999999999"])
async def test_a_wrong_query_gets_400(tmp_path: Path, query: str) -> None:
    async with running_service(tmp_path) as client:
        assert (await client.get(f"/sessions/s1/messages?{query}"))[0] == 400


async def test_what_is_not_there_gets_404_and_what_is_not_allowed_405(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        assert (await client.get("/nothing"))[0] == 404
        assert (await client.http.request("DELETE", "/sessions/s1/messages")).status == 405


async def test_pages_follow_one_another_without_gap_or_repeat(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        for number in range(5):
            await client.post({**MESSAGE, "content": f"line {number}"}, key=f"k{number}")
        seen: list[str] = []
        after = "0"
        while page := (await client.get(f"/sessions/s1/messages?limit=2&after={after}"))[1]["messages"]:
            seen += [message["content"] for message in page]
            after = page[-1]["message_id"]
        assert seen == [f"line {number}" for number in range(5)]


async def test_live_and_ready_answer(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        assert await client.get("/health/live") == (200, {"status": "live"})
        assert await client.get("/health/ready") == (200, {"status": "ready"})


async def test_trace_and_request_ids_come_in_and_go_out(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        given = {"X-Trace-ID": "a" * 32, "X-Request-ID": "01930000-0000-7000-8000-000000000001"}
        headers = (await client.post(MESSAGE, headers=given)).headers
        assert headers["x-trace-id"] == given["X-Trace-ID"]
        assert headers["x-request-id"] == given["X-Request-ID"]
        made = (await client.post(MESSAGE)).headers
        assert len(made["x-trace-id"]) == 32
        assert made["x-trace-id"] != given["X-Trace-ID"]


async def test_the_trace_id_of_a_request_is_in_the_log_lines_of_every_actor_that_worked_for_it(tmp_path: Path) -> None:
    trace = "b" * 32
    async with running_service(tmp_path) as client:
        await client.post(MESSAGE, headers={"X-Trace-ID": trace})
    lines = [json.loads(line) for line in (tmp_path / "service.log").read_text().splitlines()]
    assert any(line.get("trace_id") == trace for line in lines)


async def test_a_crash_of_the_service_leaves_over_http_as_503_without_its_cause(tmp_path: Path) -> None:
    async with running_service(tmp_path) as client:
        await client.runtime.stop(client.service.service)
        status, code, message = error_of(await client.post(MESSAGE))
        assert (status, code) == (503, "CallFailed")
        assert "retry with the same X-Idempotency-Key" in message


async def test_every_actor_killed_in_turn_and_the_service_goes_on(tmp_path: Path) -> None:
    # With a killer, which is never quick enough to kill, the tree puts up with as many crashes as there are actors.
    async with running_service(tmp_path, kill_every=100_000.0) as client:
        actors = [node.path for node in client.runtime.tree() if not node.children]
        for number, path in enumerate(actors):
            client.runtime.kill(path, "test")
            with trio.fail_after(10):
                while True:
                    try:
                        if (await client.post(MESSAGE, key=f"k{number}")).status == 200:
                            break
                    except (OSError, trio.BrokenResourceError):
                        pass
        await client.wait_for_count("s1", len(actors))
        assert {node.restarts for node in client.runtime.tree() if not node.children} == {1}


def test_every_code_of_the_domain_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(ErrorCode)


def test_an_unexpected_error_shows_nothing_of_itself() -> None:
    assert response_for(RuntimeError("secret")) == (500, "INTERNAL", "internal error", None)


def test_a_components_own_answer_leaves_with_its_own_status() -> None:
    assert response_for(c.db.Conflict("unique", "messages.id"))[:2] == (409, "Conflict")
