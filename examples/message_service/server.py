"""The service as the demo's first process: prints its address and runs until a signal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import trio

import creche

from .app import Parts, Settings, build


def main(parts: Parts | None = None) -> int:
    """Run the service; the exit status is the app's."""
    arguments = _arguments()
    settings = Settings(arguments.data, arguments.port, arguments.kill_every, arguments.kill_seed)
    service = build(settings, parts)

    async def announce_and_serve(running: creche.Running) -> None:
        host, port = await service.http.address()
        print(f"http://{host}:{port}", flush=True)
        await trio.sleep_forever()

    return service.app.run_until_complete(announce_and_serve)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="message_service")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kill-every", type=float, default=0.0, help="seconds between kills, 0 for none")
    parser.add_argument("--kill-seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
