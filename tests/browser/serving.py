"""The console's page over HTTP, with answers that a test chooses in place of the scoreboard's."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import msgspec

from streams.scoreboard.views import Failure

PAGE = Path(__file__).parents[2] / "streams" / "scoreboard" / "console.html"

Answers = Mapping[str, msgspec.Struct | int]
"""By path and query, not quoted. A number is the status of an endpoint that fails."""


@contextmanager
def served(answers: Answers) -> Iterator[str]:
    """The page's address; a mapping that changes meanwhile changes the answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path)
            if path == "/":
                self._send(200, "text/html; charset=utf-8", PAGE.read_bytes())
                return
            answer = answers.get(path, 404)
            if isinstance(answer, int):
                failure = Failure(error="Kafka is away" if answer != 404 else "not there")
                self._send(answer, "application/json", msgspec.json.encode(failure))
            else:
                loading = isinstance(answer, Failure) and answer.state == "loading"
                self._send(503 if loading else 200, "application/json", msgspec.json.encode(answer))

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *_: object) -> None:
            """A test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
