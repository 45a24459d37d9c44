"""The page obeys whoever knows its address, on this machine, and nobody else; documents are text to it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from annotators import RUBRIC

from innovator.curate.judgements import Journal, read_judgements
from innovator.curate.label_page import LabelServer
from innovator.curate.labelling import Session
from innovator.curate.sampling import Item

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u2028 {{ 7 * 7 }}"
ITEMS = [Item("clean", ("x", "y")), Item("deep", ("x", "y")), Item("clean", ("x",))]
Reply = tuple[int, dict[str, str], str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LabelServer]:
    session = Session(ITEMS, {"x": EVIL, "y": "plain"}, RUBRIC, Journal(tmp_path, "ada"))
    with LabelServer(session, 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def call(server: LabelServer, place: str, asked: object = None, **headers: str) -> Reply:
    """GET a place under the token, or POST what is asked; a place that starts with / is taken as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    path = place if place.startswith("/") else f"/{server.token}/{place}"
    body = None if asked is None else json.dumps(asked)
    typed = {} if asked is None else {"Content-Type": "application/json"}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if asked is None else "POST", path, body, typed | given)
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read().decode()
    connection.close()
    return found


def state(reply: Reply) -> dict[str, object]:
    assert reply[0] == 200, reply
    found: dict[str, object] = json.loads(reply[2])
    return found


def test_answers_are_kept_and_the_next_question_comes_back(server: LabelServer, tmp_path: Path) -> None:
    assert state(call(server, "state"))["number"] == 0
    assert state(call(server, "answer", {"number": 0, "answer": "a"}))["number"] == 1
    assert state(call(server, "skip", {"number": 1}))["texts"] == [EVIL]
    done = state(call(server, "answer", {"number": 2, "answer": "5"}))
    assert (done["number"], done["done"], done["total"]) == (None, 3, 3)
    assert [it.kind for it in read_judgements(tmp_path)] == ["pair", "grade"]
    assert state(call(server, "undo", {}))["number"] == 2
    assert [it.kind for it in read_judgements(tmp_path)] == ["pair"]


def test_documents_never_enter_the_page_as_markup(server: LabelServer) -> None:
    status, headers, page = call(server, "")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert "alert(" not in page and "innerHTML" not in page and "insertAdjacentHTML" not in page
    _, headers, text = call(server, "state")
    assert headers["Content-Type"].startswith("application/json")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert json.loads(text)["texts"][0] == EVIL


def test_scripts_and_sources_that_are_not_the_pages_own_are_forbidden(server: LabelServer) -> None:
    _, headers, page = call(server, "")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert page.count("<script") == page.count(f'<script nonce="{server.nonce}"') == 1
    assert "http://" not in page and "https://" not in page


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Host": "127.0.0.1"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
def test_other_hosts_and_origins_are_refused(server: LabelServer, tmp_path: Path, headers: dict[str, str]) -> None:
    assert call(server, "state", **headers)[0] == 403
    assert call(server, "answer", {"number": 0, "answer": "a"}, **headers)[0] == 403
    assert read_judgements(tmp_path) == []


def test_the_pages_own_origin_is_served(server: LabelServer) -> None:
    for host in (f"127.0.0.1:{server.server_port}", f"localhost:{server.server_port}"):
        state(call(server, "undo", {}, Host=host, Origin=f"http://{host}"))


@pytest.mark.parametrize("path", ["/", "/state", "/guess/state", "/guess/", "/../x", "/%00/"])
def test_without_the_token_nothing_is_served(server: LabelServer, path: str) -> None:
    assert call(server, path)[0] == 403
    assert call(server, path, {"number": 0, "answer": "a"})[0] == 403


@pytest.mark.parametrize("asked", [[], 7, {}, {"number": "0", "answer": "a"}, {"number": 0, "answer": "z"}])
def test_nonsense_is_refused_and_changes_nothing(server: LabelServer, tmp_path: Path, asked: object) -> None:
    assert call(server, "answer", asked)[0] == 400
    assert state(call(server, "state"))["number"] == 0
    assert read_judgements(tmp_path) == []


def test_forms_of_other_pages_and_long_bodies_are_refused(server: LabelServer) -> None:
    assert call(server, "undo", {}, Content_Type="text/plain")[0] == 400
    assert call(server, "undo", {"x": "x" * 5000})[0] == 400
    assert call(server, "dance", {"number": 0})[0] == 404
    assert call(server, "dance")[0] == 404


def test_the_page_is_on_this_machine_only_and_each_time_elsewhere(server: LabelServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with LabelServer(server.session, 0) as other:
        assert other.token != server.token
    with pytest.raises(ValueError, match="cannot be used"):
        LabelServer(server.session, server.server_port)


def test_stop_ends_the_session(tmp_path: Path) -> None:
    session = Session(ITEMS, {"x": EVIL, "y": "plain"}, RUBRIC, Journal(tmp_path, "ada"))
    with LabelServer(session, 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        assert call(server, "finish", {})[0] == 200
        thread.join(timeout=10)
        assert not thread.is_alive()
