"""A model is believed only where numbers, formulas, citations, headings and length stay; else the text stands."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from innovator.curate.clean.spec import SEVEN, Clean
from innovator.curate.clean.windows import Windows
from innovator.curate.endpoint import Absent, Endpoint
from innovator.curate.rewrite import Rewrite
from innovator.curate.rule import Kept

Answer = Callable[[str], str]
PARAGRAPH = "Teh energy $E = mc^2$ of particle {0} is {0}.5 J, as others say [{0}]. It is so for all of its long life."
TEXT = "# Particles\n\n" + "\n\n".join(PARAGRAPH.format(n) for n in range(1, 13)) + "\n"


@contextmanager
def model(answer: Answer) -> Iterator[Endpoint]:
    """A server that answers the user's text by a function of it; what the function raises is an error of the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions" and asked["temperature"] == 0
            try:
                message = {"role": "assistant", "content": answer(asked["messages"][1]["content"])}
                status, body = 200, {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
            except RuntimeError as error:
                status, body = int(error.args[1]), {"error": {"message": str(error.args[0])}}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(
                json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", **body}).encode()
            )

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Endpoint(url=f"http://127.0.0.1:{server.server_port}/v1", model="m", tries=1, timeout=10)
    finally:
        server.shutdown()
        server.server_close()


def rewritten(answer: Answer, windows: Windows | None = None) -> Kept:
    with model(answer) as endpoint:
        outcome = Rewrite(endpoint=endpoint).over(windows or Windows(size=120, overlap=0.25)).apply(TEXT, {})
    assert isinstance(outcome, Kept)
    return outcome


def refuse(text: str, status: int = 400) -> str:
    raise RuntimeError("overloaded", status)


def test_a_model_that_mends_is_believed_and_leaves_no_seams() -> None:
    outcome = rewritten(lambda text: text.replace("Teh", "The"))
    assert outcome.text == TEXT.replace("Teh", "The")
    n = outcome.facts["rewrite"]
    assert isinstance(n, dict) and n == {"accepted": outcome.count} and outcome.count > 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda text: text.replace(".5 J", " J"), "numbers"),
        (lambda text: text.replace("$E = mc^2$", "$E = cm^2$"), "formulas"),
        (lambda text: text[: len(text) // 2], "length"),
        (lambda text: text + " And " * 200, "length"),
        (lambda text: text.replace("[", "(").replace("]", ")"), "citations"),
        (lambda text: "Here is your text:\n\n# Particles\n\n" + text, "headings"),
        (refuse, "no answer"),
        (lambda text: "", "no answer"),
    ],
)
def test_an_answer_that_loses_something_is_refused(answer: Answer, reason: str) -> None:
    outcome = rewritten(answer)
    n = outcome.facts["rewrite"]
    assert (outcome.text, outcome.count) == (TEXT, 0)
    assert isinstance(n, dict) and set(n) == {f"refused: {reason}"}


def test_one_bad_window_does_not_spoil_the_others() -> None:
    outcome = rewritten(lambda text: refuse(text) if "particle 12" in text else text.replace("Teh", "The"))
    assert outcome.text.count("Teh") in range(1, 5) and outcome.text.replace("Teh", "The") == TEXT.replace("Teh", "The")


def test_a_window_too_long_for_the_model_stands() -> None:
    outcome = rewritten(lambda text: text.replace("Teh", "The"), Windows(size=10, overlap=0.1))
    assert outcome.text.count("Teh") == 12


@pytest.mark.parametrize("status", [401, 403, 404])
def test_who_knows_neither_us_nor_the_model_is_not_asked_again(status: int) -> None:
    asked: list[str] = []

    def answer(text: str) -> str:
        asked.append(text)
        return refuse(text, status)

    with pytest.raises(Absent, match=r"gives no answer: .*overloaded"):
        rewritten(answer)
    assert len(asked) == 1


def test_a_server_that_goes_away_stops_the_cleaning() -> None:
    """Else all texts that come after would pass for cleaned."""
    with model(str.upper) as endpoint:
        rule = Rewrite(endpoint=endpoint).over(Windows())
    with pytest.raises(Absent, match="gives no answer"):
        rule.apply(TEXT, {})


def test_an_answer_that_comes_too_late_is_refused() -> None:
    over = threading.Event()

    def answer(text: str) -> str:
        over.wait(30)
        return text

    with model(answer) as endpoint:
        outcome = Rewrite(endpoint=replace(endpoint, timeout=0.2)).over(Windows()).apply(TEXT, {})
        over.set()
    assert isinstance(outcome, Kept) and outcome.facts["rewrite"] == {"refused: no answer": 1}


def test_no_server_is_one_clear_error() -> None:
    with pytest.raises(Absent, match=r"m at http://127\.0\.0\.1:1/v1 gives no answer"):
        Endpoint(url="http://127.0.0.1:1/v1", model="m", tries=1, timeout=2).ask("be brief", "hello")


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(Absent, match="NO_SUCH_KEY"):
        Endpoint(url="http://127.0.0.1:1/v1", model="m", key_from="NO_SUCH_KEY").ask("be brief", "hello")


@pytest.mark.parametrize(
    ("field", "value"), [("url", "localhost:8000"), ("tries", 0), ("timeout", 0.0)]
)  # fmt: skip
def test_an_impossible_endpoint_is_refused(field: str, value: str | float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(Endpoint(url="http://localhost/v1", model="m"), **{field: value})


def test_the_model_comes_after_the_rules() -> None:
    rewrite = Rewrite(endpoint=Endpoint(url="http://localhost/v1", model="m"))
    assert Clean(rewrite=rewrite).build() == (*SEVEN, rewrite.over(Windows()))
