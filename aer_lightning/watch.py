"""``python -m aer_lightning watch RUN_DIR``: the report of a run while it goes on, as a page on this machine alone."""

from __future__ import annotations

import argparse
import json
from functools import partial
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from aer_lightning.errors import ConfigError, UserError
from aer_lightning.reporting.interactive import CSS, embed, report_data, script
from aer_lightning.reporting.page import CSS as PAGE_CSS
from aer_lightning.reporting.runs import Method, read_run

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def page(folder: Path) -> str:
    """The whole page."""
    title = escape("/".join(folder.absolute().parts[-2:]))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{PAGE_CSS}{CSS}</style></head>'
        f'<body data-live="1"><main><h1>{title}</h1><p class="lead" id="status"></p><div class="charts" id="charts"></div>'
        '<h2>Samples</h2><div id="samples"></div>'
        f'<script type="application/json" id="data">{embed(data(folder))}</script><script>{script()}</script></main></body></html>\n'
    )


def data(folder: Path) -> dict[str, object]:
    """What is there by now; a run that has not written yet gives empty panels."""
    try:
        run = read_run(str(folder))
    except UserError as error:
        return {"panels": [], "samples": {}, "status": f"waiting: {error}"}
    done = "finished" if (folder / "summary.json").is_file() else "running"
    return report_data([Method(run.name, [run])], f"{len(run.metrics)} rollouts, {done}")


class Handler(BaseHTTPRequestHandler):
    """Answers ``/`` and ``/data.json``, to requests that name this machine alone."""

    def __init__(self, folder: Path, *args: object) -> None:
        self.folder = folder
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Send page or data."""
        # A page elsewhere may let its own name point here; its requests carry that name.
        if self.headers.get("Host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost", "[::1]"):
            self.send_error(403)
        elif self.path == "/":
            self._send(page(self.folder), "text/html")
        elif self.path == "/data.json":
            self._send(json.dumps(data(self.folder), allow_nan=False), "application/json")
        else:
            self.send_error(404)

    def _send(self, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(200)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""


def serve(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server on loopback; port 0 takes a free one.

    Raises:
        ConfigError: the folder is not there, or the port is taken.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder of a run")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, folder))
    except OSError as error:
        raise ConfigError(f"--port: {port} cannot be used ({error.strerror}); give another, or 0 for a free one") from None


def main(argv: list[str]) -> int:
    """Serve until Ctrl-C; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m aer_lightning watch", description="The report of a run while it goes on.")
    parser.add_argument("run", metavar="RUN_DIR", help="folder of a run, finished or not")
    parser.add_argument("--port", type=int, default=6066, help="of 127.0.0.1 (default: %(default)s; 0 takes a free one)")
    options = parser.parse_args(argv)
    server = serve(Path(options.run), options.port)
    print(f"http://127.0.0.1:{server.server_address[1]}  (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return 0
