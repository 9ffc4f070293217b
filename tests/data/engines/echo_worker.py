"""A worker without an engine: answers with what it is asked, or fails as asked."""

import os
import sys
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
        if command == "environment":
            return dict(os.environ)
        return command, payload


if __name__ == "__main__":
    serve(Echo)
