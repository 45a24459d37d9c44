"""A labelling session as a local web page: one page, served to this machine only, and only to who knows its address."""

from __future__ import annotations

import json
import secrets
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from innovator.curate.labelling import Session
from innovator.say import say

HOME = "127.0.0.1"
LONGEST_BODY = 1 << 12
HERE = Path(__file__).parent


def serve(session: Session, port: int, open_browser: bool) -> None:
    """Serve the page until the annotator ends the session there, or by Ctrl-C."""
    with LabelServer(session, port) as server:
        say(f"label at {server.address} (Ctrl-C stops; every answer is kept)")
        if open_browser:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")


class LabelServer(ThreadingHTTPServer):
    """Answers at an address that holds a random token."""

    daemon_threads = True

    def __init__(self, session: Session, port: int) -> None:
        try:
            super().__init__((HOME, port), _Handler)
        except OSError as error:
            raise ValueError(f"port {port} cannot be used ({error.strerror}); port 0 takes a free one") from error
        self.session, self.token, self.nonce = session, secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOME, "localhost")}

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOME}:{self.server_port}/{self.token}/"

    def page(self) -> str:
        """The page, which holds no document: its script asks for them and sets them as text."""
        pages = Environment(loader=FileSystemLoader([HERE, HERE.parent]), autoescape=True, undefined=StrictUndefined)
        return pages.get_template("label.html.jinja").render(report=self.session.rubric, nonce=self.nonce)

    def state(self) -> dict[str, object]:
        """What the page shows now."""
        session = self.session
        with session.lock:
            question = session.question()
            about = None if question is None else question.criterion
            return {
                "number": None if question is None else question.number,
                "criterion": "" if question is None else question.name,
                "question": "" if about is None else about.question,
                "good": "" if about is None else about.good,
                "poor": "" if about is None else about.poor,
                "texts": [] if question is None else question.texts,
                "done": len(session.done),
                "total": len(session.items),
                "seconds_left": session.seconds_left(),
            }

    def act(self, action: str, asked: dict[str, object]) -> bool:
        """Do what the page asks; False if there is no such action. ValueError if it asks nonsense."""
        number = asked.get("number")
        if action == "undo":
            self.session.undo()
        elif action == "finish":
            Thread(target=self.shutdown).start()
        elif not isinstance(number, int):
            raise ValueError("the number of the question is missing")
        elif action == "answer":
            self.session.answer(number, str(asked.get("answer")))
        elif action == "skip":
            self.session.skip(number)
        else:
            return False
        return True


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    timeout: ClassVar[float] = 60.0

    def do_GET(self) -> None:
        """The page, or what it shows now."""
        if self._refused():
            return
        if self._place() == "":
            self._send(HTTPStatus.OK, self.server.page(), "text/html")
        elif self._place() == "state":
            self._send_state()
        else:
            self._say(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """An answer, a skip, an undo or the end; what is to be shown then comes back."""
        if self._refused():
            return
        length = self.headers.get("Content-Length", "")
        if (
            self.headers.get_content_type() != "application/json"
            or not length.isdecimal()
            or int(length) > LONGEST_BODY
        ):
            return self._say(HTTPStatus.BAD_REQUEST)
        try:
            asked = json.loads(self.rfile.read(int(length)))
            if not isinstance(asked, dict):
                raise ValueError("one JSON object is expected")
            known = self.server.act(self._place(), asked)
        except (ValueError, RecursionError) as error:
            return self._send(HTTPStatus.BAD_REQUEST, str(error), "text/plain")
        return self._send_state() if known else self._say(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is for people."""

    def _refused(self) -> bool:
        """Refuse what does not come from the page itself: another host's name, another origin, no token."""
        origin = self.headers.get("Origin")
        own = {f"http://{host}" for host in self.server.hosts}
        known = secrets.compare_digest(
            self.path.split("/")[1].encode() if "/" in self.path else b"", self.server.token.encode()
        )
        if self.headers.get("Host") in self.server.hosts and (origin is None or origin in own) and known:
            return False
        self._say(HTTPStatus.FORBIDDEN)
        return True

    def _place(self) -> str:
        return self.path.removeprefix(f"/{self.server.token}/")

    def _say(self, status: HTTPStatus) -> None:
        self._send(status, status.phrase, "text/plain")

    def _send_state(self) -> None:
        self._send(HTTPStatus.OK, json.dumps(self.server.state()), "application/json")

    def _send(self, status: HTTPStatus, body: str, kind: str) -> None:
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in self._guards().items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _guards(self) -> dict[str, str]:
        allowed = f"style-src 'unsafe-inline'; script-src 'nonce-{self.server.nonce}'; connect-src 'self'"
        return {
            "Content-Security-Policy": f"default-src 'none'; {allowed}; base-uri 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
