"""Messages reach the inboxes of those whom they are for, and the API says why when they may not be sent."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio
from sqlalchemy import func, select

from creche import components as c
from examples.message_service.model import (
    BATCHES_GROUP,
    BATCHES_TOPIC,
    DISTRIBUTION_GROUP,
    TOPIC,
    Batch,
    StoredMessage,
    inbox,
    world_inbox,
)

from .asgi import Client, running_service

LARGE = tuple(f"user-{number:03}" for number in range(501))


async def records_in(mq: c.mq.Mq, topic: str) -> int:
    """How many records a topic has taken."""
    return sum(partition.end for partition in (await mq.topics.describe(topic)).partitions)


async def wait_until_done(client: Client, *groups: str) -> None:
    """Until these groups have handled all there is."""
    with trio.fail_after(20):
        for group in groups:
            while any((await client.service.mq.lag(group)).values()):
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("kind", "members"), [("single", ("ada", "grace")), ("group", ("ada", "grace", "joan"))])
async def test_small_sessions_reach_each_member_and_nobody_else(
    tmp_path: Path, kind: str, members: tuple[str, ...]
) -> None:
    """A message is in the inboxes of all members at once, without a detour."""
    async with running_service(tmp_path) as client:
        await client.define("other", "group", "eve")
        await client.define("s1", kind, *members)
        await client.post("s1", "ada")
        for member in members:
            await client.wait_for_inbox(member, ["Hello."])
        assert await client.inbox("eve") == []
        assert await records_in(client.service.mq, BATCHES_TOPIC) == 0


async def test_a_large_group_is_reached_in_batches(tmp_path: Path) -> None:
    """501 members are two records of the topic of batches, and each member has the message once."""
    async with running_service(tmp_path) as client:
        await client.define("s1", "group", *LARGE)
        await client.post("s1", LARGE[0])
        for member in (LARGE[0], LARGE[-1]):
            await client.wait_for_inbox(member, ["Hello."])
        assert await records_in(client.service.mq, BATCHES_TOPIC) == 2
        assert await client.service.db.scalar(select(func.count()).select_from(inbox)) == len(LARGE)


async def test_the_world_reaches_everybody_and_is_stored_once(tmp_path: Path) -> None:
    """Whoever reads his inbox has it, merged in order with what is his own."""
    async with running_service(tmp_path) as client:
        await client.define("pair", "single", "ada", "grace")
        await client.define("all", "world")
        for number, session in enumerate(["pair", "all", "pair"]):
            await client.post(session, "ada", f"k{number}", f"{number} to {session}")
        await client.wait_for_inbox("grace", ["0 to pair", "1 to all", "2 to pair"])
        await client.define("late", "group", "joan")
        assert await client.inbox("joan") == ["1 to all"]
        assert await client.service.db.scalar(select(func.count()).select_from(world_inbox)) == 1


async def test_what_is_delivered_again_is_in_the_inbox_once(tmp_path: Path) -> None:
    """A record that comes twice changes nothing the second time, whatever the kind of its session."""
    async with running_service(tmp_path) as client:
        await client.define("pair", "single", "ada", "grace")
        await client.define("all", "world")
        mq = client.service.mq
        for number, session in enumerate(["pair", "all"]):
            _, answer = await client.post(session, "ada", f"k{number}")
            again = StoredMessage(answer["message_id"], session, "ada", "Hello.", 0.0)
            await mq.send_sync(c.mq.Message(TOPIC, msgspec.json.encode(again)))
            if session == "pair":
                batch = Batch(answer["message_id"], ("ada", "grace"))
                await mq.send_sync(c.mq.Message(BATCHES_TOPIC, msgspec.json.encode(batch)))
        await client.wait_for_inbox("ada", ["Hello.", "Hello."])
        await wait_until_done(client, DISTRIBUTION_GROUP, BATCHES_GROUP)
        for group, topic in ((DISTRIBUTION_GROUP, TOPIC), (BATCHES_GROUP, BATCHES_TOPIC)):
            assert await mq.dead_letters.list(f"{topic}.dead_letter", group) == []
        assert await client.inbox("ada") == ["Hello.", "Hello."]


async def test_what_can_never_be_delivered_is_a_dead_letter_and_holds_up_nothing(tmp_path: Path) -> None:
    """A message of a session that is not there is put aside at its first try."""
    async with running_service(tmp_path) as client:
        await client.define("s1", "single", "ada", "grace")
        mq = client.service.mq
        lost = msgspec.json.encode(StoredMessage("1", "nowhere", "ada", "Hello.", 0.0))
        await mq.send_sync(c.mq.Message(TOPIC, lost))
        await client.post("s1", "ada")
        await client.wait_for_inbox("grace", ["Hello."])
        await wait_until_done(client, DISTRIBUTION_GROUP)
        (letter,) = await mq.dead_letters.list(f"{TOPIC}.dead_letter", DISTRIBUTION_GROUP)
        assert (letter.value, letter.headers["creche-attempts"]) == (lost, "1")


async def test_a_message_is_read_by_its_id(tmp_path: Path) -> None:
    """The id of the answer names the message."""
    async with running_service(tmp_path) as client:
        await client.define("s1", "single", "ada", "grace")
        _, answer = await client.post("s1", "ada")
        status, message = await client.get(f"/messages/{answer['message_id']}")
        assert (status, message["user_id"], message["content"]) == (200, "ada", "Hello.")


async def test_users_and_sessions_are_made_and_changed_over_http(tmp_path: Path) -> None:
    """PUT answers with what holds now, and may be repeated."""
    async with running_service(tmp_path) as client:
        users = {"users": [{"user_id": "ada", "name": "Ada"}, {"user_id": "grace", "name": "Grace"}]}
        for _ in range(2):
            assert await client.put("/users", users) == (200, {"saved": 2})
            status, session = await client.put("/sessions/s1", {"kind": "single", "members": ["grace", "ada"]})
            assert (status, session["members"]) == (200, ["ada", "grace"])
        assert (await client.post("s1", "grace"))[0] == 200


async def test_who_is_no_member_any_more_may_not_post(tmp_path: Path) -> None:
    """A change of the members holds for the next message."""
    async with running_service(tmp_path) as client:
        await client.define("s1", "group", "ada", "grace")
        assert (await client.post("s1", "grace"))[0] == 200
        await client.put("/sessions/s1", {"kind": "group", "members": ["ada"]})
        status, body = await client.post("s1", "grace", "k2")
        assert (status, body["error"]["code"]) == (403, "PERMISSION_DENIED")


PAIR = {"kind": "single", "members": ["ada", "grace"]}
REFUSED: dict[str, tuple[str, str, object, int, str]] = {
    "poster unknown": ("POST", "/sessions/s1/messages", {"user_id": "eve", "content": "x"}, 404, "USER_NOT_FOUND"),
    "poster outside": ("POST", "/sessions/s1/messages", {"user_id": "joan", "content": "x"}, 403, "PERMISSION_DENIED"),
    "session unknown": ("POST", "/sessions/s9/messages", {"user_id": "ada", "content": "x"}, 404, "SESSION_NOT_FOUND"),
    "history unknown": ("GET", "/sessions/s9/messages", None, 404, "SESSION_NOT_FOUND"),
    "inbox unknown": ("GET", "/users/eve/inbox", None, 404, "USER_NOT_FOUND"),
    "message unknown": ("GET", "/messages/1", None, 404, "MESSAGE_NOT_FOUND"),
    "message no number": ("GET", "/messages/one", None, 400, "INVALID_INPUT"),
    "kind unknown": ("PUT", "/sessions/s2", {**PAIR, "kind": "secret"}, 400, "INVALID_INPUT"),
    "single of one": ("PUT", "/sessions/s2", {"kind": "single", "members": ["ada"]}, 400, "INVALID_INPUT"),
    "member twice": ("PUT", "/sessions/s2", {"kind": "group", "members": ["ada", "ada"]}, 400, "INVALID_INPUT"),
    "member unknown": ("PUT", "/sessions/s2", {"kind": "group", "members": ["eve"]}, 404, "USER_NOT_FOUND"),
    "session misnamed": ("PUT", "/sessions/a b", PAIR, 400, "INVALID_INPUT"),
    "user misnamed": ("PUT", "/users", {"users": [{"user_id": "a/b", "name": "A"}]}, 400, "INVALID_INPUT"),
    "no users": ("PUT", "/users", {"users": []}, 400, "INVALID_INPUT"),
}


async def test_each_refusal_has_its_status_code_and_text(tmp_path: Path) -> None:
    """The errors of the domain leave as status and as JSON with code and message; nothing is stored."""
    async with running_service(tmp_path) as client:
        await client.define("s0", "group", "joan")
        await client.define("s1", "single", "ada", "grace")
        for what, (method, target, body, status, code) in REFUSED.items():
            found, answer = await client.request(method, target, body, {"X-Idempotency-Key": "k"})
            assert (what, found, answer["error"]["code"]) == (what, status, code)
            assert answer["error"]["message"], what
        assert (await client.get("/sessions/s2/messages"))[0] == 404
        assert await client.inbox("ada") == []
