"""The gallery's server: this machine alone can reach it, and only pages of its own may ask it."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from pretask import modalities
from pretask.errors import PretaskError, UsageError
from pretask.gallery.puzzles import Puzzles
from pretask.gallery.routes import Gallery, NotThere, static
from pretask.gallery.shelf import Shelf

if TYPE_CHECKING:
    from pretask.pretrain import DataSource

HOST, PORT, LARGEST = "127.0.0.1", 8088, 65536
"""Where the server listens; bytes of a request at most."""

SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; media-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every answer: nothing is loaded from elsewhere, and nothing elsewhere reads what is answered."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pretask", ""
    timeout = 120
    server: Server

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            self.answer(lambda: self.server.gallery.get(self.path))
        else:
            path = self.path.partition("?")[0]
            self.answer(lambda: static(path.removeprefix("/static/") if path != "/" else "index.html"))

    def do_POST(self) -> None:
        self.answer(lambda: self.server.gallery.post(self.path, self.body()))

    def answer(self, make: Any) -> None:
        """Send what `make` returns: a file, or plain data; or why there is nothing."""
        try:
            self.admit()
            made = make()
            self.send(200, *(made if isinstance(made, tuple) else (as_json(made), "application/json")))
        except Refused as error:
            self.close_connection = True  # whatever the body was, it is not read
            self.fail(error.status, str(error))
        except NotThere as error:
            self.fail(404, str(error))
        except PretaskError as error:
            self.fail(400, str(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the page has moved on
        except Exception as error:
            print(f"pretask: {self.path}: {type(error).__name__}: {error}", file=sys.stderr)
            self.fail(500, f"{type(error).__name__}: {error}")

    def fail(self, status: int, message: str) -> None:
        try:
            self.send(status, as_json({"error": message}), "application/json")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**SAFE, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def admit(self) -> None:
        """Only this machine's own names, so that no name elsewhere can be made to stand for it.

        Raises:
            Refused: another host was asked for, or another page asks.
        """
        names = {f"{host}:{self.server.server_port}" for host in (HOST, "localhost")}
        if self.headers.get("Host") not in names:
            raise Refused(403, f"this server answers to {HOST} and localhost alone")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{name}" for name in names}:
            raise Refused(403, "only the gallery's own page may ask")

    def body(self) -> Any:
        """The JSON that was sent.

        Raises:
            Refused: it is none, or too much.
        """
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "application/json is expected")
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST:
            raise Refused(413, f"a body of at most {LARGEST} bytes is expected, its length said before")
        try:
            return json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise UsageError(f"this is no JSON: {error}") from error

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


class Refused(Exception):
    """A request that is not looked at further."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """The gallery on a port of this machine.

    Args:
        gallery: what is shown.
        port: 0 takes any that is free.

    Raises:
        UsageError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"

    def __init__(self, gallery: Gallery, port: int = 0):
        self.gallery = gallery
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"port {port} cannot be used ({error}): choose another with --port") from error

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().server_bind()

    def start(self) -> Server:
        """Serve beside whatever else goes on; `shutdown` ends it."""
        Thread(target=self.serve_forever, daemon=True).start()
        return self


def as_json(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:
        return json.dumps(finite(value), allow_nan=False).encode()


def finite(value: Any) -> Any:
    """Numbers that JSON does not know become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def app(
    data: DataSource | None = None,
    runs: str | Path = "runs",
    *,
    evidence: str | Path = "evidence",
    port: int = PORT,
    modality: str | None = None,
    reading: dict[str, Any] | None = None,
    browser: bool = True,
    wait: bool = True,
) -> Server:
    """Open the gallery: every method's puzzle on one's own data, runs, and the evidence, as a local page.

    Args:
        data: anything `open_data` takes; methods of other kinds of data are shown on embedded sets.
        runs: the folder of run folders.
        evidence: the folder of claims' results.
        port: of 127.0.0.1; 0 takes any that is free.
        modality: what to read the data as; default what their files say.
        reading: further settings of the data's reader.
        browser: open the page in a browser where there is a screen.
        wait: serve until interrupted; False returns at once, `Server.shutdown` ends it.

    Raises:
        UsageError: the data are not there, or the port is taken.
    """
    if modality is not None:
        modalities.find(modality)
    if isinstance(data, str | Path) and is_missing(str(data)):
        raise UsageError(
            f"'{data}' is no file, no folder and no embedded set ({', '.join(modalities.BY_EMBEDDED)})"
        )
    gallery = Gallery(Puzzles(data, modality, reading), Shelf(runs), Path(evidence))
    server = Server(gallery, port)
    gallery.warm()
    print(f"gallery: {server.url}  (only this machine can open it; Ctrl+C ends it)", flush=True)
    if browser and has_screen():
        Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
    if not wait:
        return server.start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nclosed")
    finally:
        server.server_close()
    return server


def is_missing(source: str) -> bool:
    """Whether a source is neither embedded nor on the disk; addresses and patterns are left to the readers."""
    plain = source not in modalities.BY_EMBEDDED and not any(sign in source for sign in ("://", "{", "*"))
    return plain and not Path(source).expanduser().exists()


def has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
