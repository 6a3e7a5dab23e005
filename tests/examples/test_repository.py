"""Cache-aside: the copy is used, is never outdated after a write, and may be missing altogether."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sqlalchemy import delete, insert, update

import creche
from examples.message_service.errors import MessageNotFound, SessionNotFound, UserNotFound
from examples.message_service.model import Session, User, messages, sessions, users

from .asgi import running_service

ADA, GRACE = User("ada", "Ada"), User("grace", "Grace")
PAIR = Session("s1", "single", ("ada", "grace"))


async def test_a_second_read_takes_the_copy(tmp_path: Path) -> None:
    """What has been read once is read from the cache, even if somebody else has deleted the rows meanwhile."""
    async with running_service(tmp_path) as client:
        repository, db = client.service.repository, client.service.db
        await client.define("s1", "single", "ada", "grace")
        assert (await repository.session("s1"), await repository.user("ada")) == (PAIR, ADA)
        await db.execute(delete(sessions))
        await db.execute(delete(users))
        assert (await repository.session("s1"), await repository.user("ada")) == (PAIR, ADA)


async def test_a_read_after_a_write_sees_it(tmp_path: Path) -> None:
    """A write ends the copies of what it has changed."""
    async with running_service(tmp_path) as client:
        repository = client.service.repository
        await client.define("s1", "single", "ada", "grace")
        await repository.session("s1")
        await repository.user("ada")
        await repository.save_users([User("ada", "Countess"), GRACE])
        await repository.save_session(Session("s1", "group", ("ada",)))
        assert (await repository.user("ada")).name == "Countess"
        assert await repository.session("s1") == Session("s1", "group", ("ada",))


async def test_that_something_is_not_there_is_forgotten_when_it_comes(tmp_path: Path) -> None:
    """A negative copy ends with the write, too."""
    async with running_service(tmp_path) as client:
        repository = client.service.repository
        with pytest.raises(UserNotFound):
            await repository.user("ada")
        with pytest.raises(SessionNotFound):
            await repository.session("s1")
        await client.define("s1", "single", "ada", "grace")
        assert (await repository.session("s1"), await repository.user("ada")) == (PAIR, ADA)


async def test_that_a_message_is_not_there_is_not_remembered(tmp_path: Path) -> None:
    """Nobody deletes the copy of a message, so there is none of a missing one."""
    async with running_service(tmp_path) as client:
        repository = client.service.repository
        with pytest.raises(MessageNotFound):
            await repository.message(7)
        row = {"id": 7, "request_key": "k", "session_id": "s1", "user_id": "ada", "content": "Hi.", "created_at": 0}
        await client.service.db.execute(insert(messages).values(**row))
        assert (await repository.message(7)).content == "Hi."


async def test_a_writer_that_is_ended_after_its_commit_leaves_no_outdated_copy(tmp_path: Path) -> None:
    """The copy is deleted although the writer is being cancelled."""
    async with running_service(tmp_path) as client:
        repository, db = client.service.repository, client.service.db
        await repository.save_users([ADA])
        await repository.user("ada")
        with trio.CancelScope() as ended:
            async with repository.changing("user:ada"):
                await db.execute(update(users).values(name="Countess"))
                ended.cancel()
                await trio.sleep_forever()
        assert ended.cancelled_caught
        assert (await repository.user("ada")).name == "Countess"


async def test_a_session_with_an_unknown_member_changes_nothing(tmp_path: Path) -> None:
    """It is all in one transaction."""
    async with running_service(tmp_path) as client:
        await client.define("s1", "single", "ada", "grace")
        with pytest.raises(UserNotFound, match="nobody"):
            await client.service.repository.save_session(Session("s1", "group", ("ada", "nobody")))
        assert await client.service.repository.session("s1") == PAIR


async def test_without_its_cache_the_service_reads_and_writes_the_database(tmp_path: Path) -> None:
    """A cache that is down for good costs speed, nothing else."""
    async with running_service(tmp_path) as client:
        repository = client.service.repository
        await client.define("s1", "single", "ada", "grace")
        await client.runtime.stop(client.service.cache)
        assert await repository.session("s1") == PAIR
        await client.define("s1", "group", "ada", "grace", "joan")
        assert (await repository.session("s1")).kind == "group"
        assert (await client.post("s1", "joan"))[0] == 200
        await client.wait_for_inbox("ada", ["Hello."])
        assert (await client.post("s1", "eve"))[1]["error"]["code"] == "USER_NOT_FOUND"


async def test_a_crash_of_the_cache_is_no_more_than_a_miss(tmp_path: Path) -> None:
    """What was cached is loaded anew, and is up to date."""
    async with running_service(tmp_path) as client:
        repository = client.service.repository
        await client.define("s1", "single", "ada", "grace")
        await repository.session("s1")
        client.runtime.kill(client.service.cache, "test")
        await client.define("s1", "group", "ada", "grace", "joan")
        assert (await repository.session("s1")).members == ("ada", "grace", "joan")


async def test_if_it_is_the_database_that_failed_the_reader_is_told_so(tmp_path: Path) -> None:
    """The way past the cache does not hide that there is no answer."""
    async with running_service(tmp_path) as client:
        await client.runtime.stop(client.service.db)
        with pytest.raises(creche.ActorStopped) as failed:
            await client.service.repository.user("ada")
        assert failed.value.path.endswith("/db")
