"""A judge is believed only where its answer is one grade; real requests to a server on this machine."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from innovator.curate.endpoint import Endpoint
from innovator.curate.judge import Judge, parse
from innovator.curate.pairs import Pair, Pairs

Answer = Callable[[str, str], str]
TEXTS = {f"t{number}": f"text with mud{' mud' * number}" for number in range(8)}
PAIRS = [Pair(f"t{one}", f"t{other}", about="mud", gap=other - one) for one in range(8) for other in range(one + 1, 8)]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server that speaks as OpenAI's does."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            system, user = (message["content"] for message in asked["messages"])
            choice = {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": answer(system, user)},
            }
            body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def count_mud(system: str, user: str) -> str:
    return f"GRADE: {100 - 10 * len(re.findall('mud', user))}"


def test_a_judge_that_sees_the_difference_agrees(tmp_path: Path) -> None:
    rubrics = set()

    def answer(system: str, user: str) -> str:
        rubrics.add("Mud is bad." in system)
        return count_mud(system, user)

    with answering(answer) as url:
        judge = Judge(endpoint=Endpoint(url=url, model="m"))
        alignment = judge.align(Pairs(TEXTS, [], PAIRS), "Mud is bad.", tmp_path)
    assert alignment.whole.value == 1 and alignment.n_refused == 0 and rubrics == {True}
    assert json.loads((tmp_path / "alignment.json").read_text())["whole"]["n"] == len(PAIRS)


def test_an_indifferent_judge_agrees_by_half_and_is_below_the_bar(tmp_path: Path) -> None:
    with answering(lambda system, user: "GRADE: 50") as url:
        judge = Judge(endpoint=Endpoint(url=url, model="m"))
        with pytest.raises(ValueError, match=r"agrees with 50\.0%.*45\.0 points below the bar of 95%"):
            judge.align(Pairs(TEXTS, [], PAIRS), "", tmp_path)


def test_an_unreadable_answer_is_asked_for_again() -> None:
    def answer(system: str, user: str) -> str:
        return "GRADE: 7" if "could not be read" in user else "I would say 7."

    with answering(answer) as url:
        grader = Judge(endpoint=Endpoint(url=url, model="m"), tries=2).grader("", Path())
        assert grader.grade(["a", "b"]).tolist() == [7, 7]


def test_refused_texts_are_counted_and_too_many_end_it(tmp_path: Path) -> None:
    def answer(system: str, user: str) -> str:
        return "No." if len(re.findall("mud", user)) == 3 else count_mud(system, user)

    with answering(answer) as url:
        endpoint = Endpoint(url=url, model="m")
        patient = Judge(endpoint=endpoint, tries=1, most_refused=0.2)
        alignment = patient.align(Pairs(TEXTS, [], PAIRS), "", tmp_path)
        assert alignment.n_refused == 7 and alignment.whole.n == len(PAIRS) - 7
        assert math.isnan(patient.grader("", tmp_path).grade([*TEXTS.values()])[2])
        with pytest.raises(ValueError, match="no readable grade for 1 of 8 texts"):
            Judge(endpoint=endpoint, tries=1).align(Pairs(TEXTS, [], PAIRS), "", tmp_path)


@pytest.mark.parametrize("answer", ["GRADE: 0", "grade: 100", " GRADE:42.\n"])
def test_one_grade_is_read(answer: str) -> None:
    assert parse(answer) == float(re.sub(r"\D", "", answer))


@pytest.mark.parametrize(
    "answer", ["", "42", "GRADE: 101", "GRADE: -1", "GRADE: 4.5", "GRADE: 4 GRADE: 5", "A GRADE: 4"]
)
def test_anything_else_is_not(answer: str) -> None:
    assert parse(answer) is None
