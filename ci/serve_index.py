"""Serve the page over all nights, and what it links to, on the loopback interface: `serve_index.py PORT`.

Only what people read is served: the page, and each night's report in its forms. Raw samples, logs, settings and
databases lie in the same home and are not. Requests under another host's name (a web page that had this machine's
address put under its own name) are refused.
"""

from __future__ import annotations

import re
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from fp8bench import config  # noqa: E402

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".xml": "application/xml",
    ".json": "application/json",
}
SERVED = re.compile(r"/runs/([A-Za-z0-9_][A-Za-z0-9_.-]*)/(report\.html|summary\.md|junit\.xml|verdicts\.json)")
OURS = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")


def file_of(home: Path, path: str) -> Path | None:
    """The file that a request for `path` may have; None for everything else."""
    if path in ("/", "/index.html"):
        return home / "index.html"
    asked = SERVED.fullmatch(path)
    if asked is None:
        return None
    file = home / "runs" / asked[1] / asked[2]
    return file if file.resolve() == (home / "runs").resolve() / asked[1] / asked[2] else None


class Handler(BaseHTTPRequestHandler):
    """Answers GET with a file of `home`, or with nothing."""

    home = Path()
    server_version, sys_version = "fp8bench", ""

    def do_GET(self) -> None:
        if not OURS.fullmatch(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.FORBIDDEN, "not this host's name")
            return
        file = file_of(self.home, self.path.partition("?")[0])
        try:
            data = file.read_bytes() if file else b""
        except OSError:
            file = None
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES[file.suffix])
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    Handler.home = config.load().home.resolve()
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
