"""A worker without an engine: answers with what it is asked, or fails as asked."""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from aer_lightning.data.engines.worker_loop import serve


class Echo:
    def __init__(self, settings: dict[str, Any]) -> None:
        if "fail" in settings:
            print("a line of the log")
            raise ValueError(settings["fail"])

    def handle(self, command: str, payload: Any) -> Any:
        if command == "raise":
            raise KeyError(payload)
        if command == "exit":
            print("last words")
            sys.stdout.flush()
            os._exit(payload)
        if command == "count":
            return self.count(*payload)
        if command == "read":
            return os.read(payload, 5)
        if command == "environment":
            return dict(os.environ)
        return command, payload

    def count(self, most: int, file: str) -> Iterator[int]:
        yield 0
        while not os.path.exists(file):
            time.sleep(0.01)
        if most < 0:
            raise ValueError("below zero")
        yield from range(1, most)


if __name__ == "__main__":
    serve(Echo)
