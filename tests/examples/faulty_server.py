"""The message service with a planted fault: it acknowledges a message before it has committed it."""

from __future__ import annotations

import sys

from examples.message_service.app import Parts
from examples.message_service.model import Answer, SendMessage
from examples.message_service.server import main
from examples.message_service.service import MessageService, accept


class AcknowledgesBeforeCommit(MessageService):
    """Looks fine until something crashes."""

    async def send(self, session_id: str, request_id: str, request: SendMessage) -> Answer:
        message_id = await self._uid.snowflake()
        self.context.spawn(self._store, message_id, session_id, request_id, request)
        return Answer(str(message_id))

    async def _store(self, message_id: int, session_id: str, request_id: str, request: SendMessage) -> None:
        await self._db.transact_sync(accept, message_id, session_id, f"send_message:{request_id}", request)


if __name__ == "__main__":
    sys.exit(main(Parts(service=AcknowledgesBeforeCommit)))
