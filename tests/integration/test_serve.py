"""The application on a real Ray Serve: HTTP in, a tiny random model and a real index behind it."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import ray
from chatsearch.errors import ClusterError, ConfigError, FingerprintMismatchError, IncompleteArtefactError
from chatsearch.index.gallery import GalleryIndex
from chatsearch.manifest import open_artefact
from chatsearch.testing.ports import free_ports
from chatsearch.testing.tiny import tiny_bundle
from chatsearch.types import content_hash

from serve.app import build_app
from serve.run import check_port, serving
from serve.settings import ServeArgs
from tests.serving import make_served, serve_job
from tests.unit.converse.memory import picture

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def args(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> ServeArgs:
    return make_served(str(tmp_path_factory.mktemp("served")))


@pytest.fixture(scope="module")
def client(args: ServeArgs) -> Iterator[httpx.Client]:
    with serving(args, port=free_ports(1)[0]) as address, httpx.Client(base_url=address, timeout=60) as opened:
        yield opened


def user(*parts: str | bytes) -> dict:
    url = "data:image/png;base64,"
    content = [
        {"type": "text", "text": p}
        if isinstance(p, str)
        else {"type": "image_url", "image_url": {"url": url + base64.b64encode(p).decode()}}
        for p in parts
    ]
    return {"role": "user", "content": content}


def test_it_is_ready_and_names_what_it_serves(client: httpx.Client, args: ServeArgs) -> None:
    ready = client.get("/readyz").json()
    assert ready["model"] == open_artefact(args.model, "model-bundle").fingerprint
    assert ready["index_version"] == open_artefact(args.index, "gallery-index").fingerprint
    (gallery,) = client.get("/v1/galleries").json()["galleries"]
    assert gallery["num_shards"] == 2
    assert gallery["num_items"] == GalleryIndex.open(args.index).num_items


def test_a_search_over_two_shards_ranks_the_whole_gallery(client: httpx.Client) -> None:
    answer = client.post("/v1/search", json={"messages": [user("a red apple", picture(300))], "num_candidates": 100})
    hits = answer.json()["hits"]
    (gallery,) = client.get("/v1/galleries").json()["galleries"]
    assert len(hits) == gallery["num_items"]
    assert [h["rank"] for h in hits] == list(range(1, len(hits) + 1))
    assert [(-h["score"], h["item_id"]) for h in hits] == sorted((-h["score"], h["item_id"]) for h in hits)
    assert answer.json()["trace_id"] == answer.headers["x-trace-id"]
    for hit in (hits[0], hits[-1]):
        by_hash, by_item = client.get(hit["image_url"]), client.get(f"/v1/images/{hit['item_id']}")
        assert content_hash(by_hash.content) == hit["content_hash"]
        assert by_item.content == by_hash.content


def test_an_answer_streams_through_the_proxy(client: httpx.Client) -> None:
    body = {"messages": [user("hello")], "retrieve": "never", "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert len(chunks) > 2, "the words come piece by piece"
    whole = client.post("/v1/chat/completions", json=body | {"stream": False}).json()["choices"][0]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == whole["message"]["content"]


def test_a_conversation_survives_say_pick_repick_undo_and_delete(client: httpx.Client) -> None:
    path = client.post("/v1/conversations").headers["location"]
    said = client.post(f"{path}/turns", json={"content": user("x", picture(7))["content"], "retrieve": "always"}).json()
    candidates = said["turns"][1]["pieces"][-1]["retrieval"]["candidates"]
    assert len(candidates) == 10
    searches = []
    for hit in (candidates[0], candidates[1], candidates[0]):
        request = {"item_id": hit["item_id"], "retrieval": 0, "retrieve": "never"}
        picked = client.post(f"{path}/picks", json=request).json()
        assert picked["turns"][1]["pieces"][0]["retrieval"]["picked"] == hit["item_id"]
        client.post(f"{path}/turns", json={"content": "larger", "retrieve": "always", "num_candidates": 100})
        view = client.get(path).json()
        searches.append({h["item_id"]: h["score"] for h in view["turns"][3]["pieces"][-1]["retrieval"]["candidates"]})
        view = client.post(f"{path}/undo").json()
        assert view["turns"] == picked["turns"]
    assert searches[0] == searches[2], "the same pick and words give the same query"
    shared = searches[0].keys() & searches[1].keys()
    assert any(searches[0][item] != searches[1][item] for item in shared), "another pick gives another query"
    assert len(client.get(f"{path}/export").json()["transcript"]["steps"]) == 4
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_model_arrive_as_problem_documents(client: httpx.Client, stream: bool) -> None:
    body = {"messages": [user("word " * 2000)], "stream": stream}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "the limit is 400" in answer.json()["detail"]
    assert "Traceback" not in answer.text
    missing = {"type": "image_url", "image_url": {"url": "/v1/images/" + "0" * 64}}
    body = {"messages": [{"role": "user", "content": [missing]}], "stream": stream}
    assert client.post("/v1/chat/completions", json=body).status_code == 404


def test_a_body_over_the_limit_is_refused_through_the_proxy(client: httpx.Client) -> None:
    answer = client.post("/v1/search", content=b"x" * 20_000_001, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["limit"] == 20_000_000


def test_it_listens_on_loopback_only(client: httpx.Client) -> None:
    port = client.base_url.port
    heard = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    assert heard == {"127.0.0.1"}


def test_foreign_names_and_pages_are_refused_through_the_proxy(client: httpx.Client) -> None:
    bent = client.get("/v1/galleries", headers={"host": f"evil.example:{client.base_url.port}"})
    assert (bent.status_code, bent.json()["type"]) == (421, "urn:chatsearch:problem:unknown-host")
    foreign = client.post("/v1/conversations", headers={"origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["type"]) == (403, "urn:chatsearch:problem:foreign-origin")
    own = client.post("/v1/conversations", headers={"origin": str(client.base_url).rstrip("/")})
    assert own.status_code == 201


def in_flight(client: httpx.Client) -> float:
    (value,) = re.findall(r"^chatsearch_http_in_flight (.+)$", client.get("/metrics").text, re.MULTILINE)
    return float(value) - 1  # the question itself


def test_clients_that_leave_in_mid_answer_leave_nothing_behind(client: httpx.Client) -> None:
    path = client.post("/v1/conversations").headers["location"]
    body = {"content": "hello", "retrieve": "never", "stream": True}
    for _ in range(5):
        with client.stream("POST", f"{path}/turns", json=body) as answer:
            next(answer.iter_lines())
    deadline = time.monotonic() + 30
    while in_flight(client):
        assert time.monotonic() < deadline, "an answer goes on for nobody"
        time.sleep(0.05)
    assert len(client.get(path).json()["turns"]) % 2 == 0, "a turn is kept with its answer, or not at all"
    assert client.post(f"{path}/turns", json=body | {"stream": False}).status_code == 200
    context = ray.get_runtime_context()
    folder = Path(context.get_temp_dir(), context.get_session_name(), "logs", "serve")
    logs = "".join(log.read_text(errors="replace") for log in folder.glob("*Model*"))
    assert logs
    assert "already executing" not in logs


def test_a_cluster_that_serves_already_is_left_as_it_is(client: httpx.Client, args: ServeArgs) -> None:
    with (
        pytest.raises(ClusterError, match=r"already \(chatsearch\).*serve deploy"),
        serving(args, port=free_ports(1)[0]),
    ):
        pass
    assert client.get("/readyz").status_code == 200


def test_the_job_answers_to_hosts_it_was_told_of_and_sigterm_ends_it_cleanly(args: ServeArgs, tmp_path: Path) -> None:
    own = args.replace(allowed_hosts=("search.example.org",), database=f"sqlite:///{tmp_path}/new/conversations.db")
    with serve_job(own, signal.SIGTERM) as address:
        own_name = address.removeprefix("http://")
        for host, status in (("search.example.org", 200), (own_name, 200), ("evil.example", 421)):
            assert httpx.get(f"{address}/healthz", headers={"host": host}).status_code == status


def test_an_index_of_another_model_is_refused_before_anything_starts(args: ServeArgs, tmp_path: Path) -> None:
    other = tiny_bundle(str(tmp_path / "other"), seed=1)
    mixed = args.replace(model=other.uri)
    for start in (lambda: build_app(mixed), lambda: serving(mixed, port=free_ports(1)[0]).__enter__()):
        with pytest.raises(FingerprintMismatchError, match=r"jobs\.index"):
            start()


def test_a_model_that_is_not_there_is_named(args: ServeArgs, tmp_path: Path) -> None:
    with pytest.raises(IncompleteArtefactError, match="nowhere"):
        build_app(args.replace(model=str(tmp_path / "nowhere")))


def test_a_busy_port_is_named_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"another program listens there.*choose another port \(--set port="):
            check_port("127.0.0.1", taken.getsockname()[1])
