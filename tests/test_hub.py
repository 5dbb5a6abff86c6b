"""Publishing against a Hub of our own on this machine: what arrives is what was exported."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vagen.config import Tiny
from vagen.export import export as export_here
from vagen.hub import HubError, push
from vagen.policy import tiny
from vagen.policy.policy import ClozeFormat, Policy

ROOT = Path(__file__).parents[1]
WORLD = "sokoban-6x6"
SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as uploading a small folder takes."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        if self.server.status != 200:
            self.answer({"error": "you may not"}, self.server.status)
        elif self.path == "/api/repos/create":
            name = json.loads(body)["name"]
            self.answer({"url": f"{self.server.endpoint}/me/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            self.answer({"files": [{**file, "shouldIgnore": False} for file in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            self.answer({"commitUrl": f"{self.server.endpoint}/me/model/commit/abc", "commitOid": "abc"})
        else:
            self.answer({}, 404)

    def do_GET(self) -> None:
        self.answer({"id": "me/model", "sha": "abc", "siblings": []}, self.server.status)

    def answer(self, value: dict, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.endpoint = f"http://127.0.0.1:{server.server_port}"
    server.files, server.requests, server.status = {}, [], 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model, processor = tiny.build(Tiny(**SMALL), [WORLD], 1)
    form = ClozeFormat("grid", False, (WORLD,), ("state_estimation",))
    Policy("small", model, processor, form).save(folder / "checkpoints" / "step-000001" / "model")
    return folder


def export(run: Path, output: Path, endpoint: str, *arguments: str) -> subprocess.CompletedProcess:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(output.parent / "hf"),
    }
    command = [sys.executable, "-m", "vagen.cli", "export", str(run), "--output", str(output), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_what_is_published_is_what_was_exported(hub, run, tmp_path):
    done = export(run, tmp_path / "model", hub.endpoint, "--push-to-hub", "model")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == str(tmp_path / "model")
    assert f"{hub.endpoint}/me/model/commit/abc" in done.stderr
    exported = {str(p.relative_to(tmp_path / "model")): p.read_bytes() for p in (tmp_path / "model").rglob("*")}
    assert hub.files == exported
    assert "model.safetensors" in hub.files
    assert b"library_name: transformers" in hub.files["README.md"]
    assert all(token == "Bearer hf_secret" for _, token, _ in hub.requests)


def refused(done: subprocess.CompletedProcess, complaint: str) -> None:
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr[-2000:]
    assert complaint in done.stderr
    assert "hf_secret" not in done.stderr


def test_a_hub_that_refuses_is_one_line(hub, run, tmp_path):
    hub.status = 401
    done = export(run, tmp_path / "model", hub.endpoint, "--push-to-hub", "model")
    refused(done, "log in with `hf auth login`")
    assert hub.files == {}


@pytest.fixture
def at(monkeypatch, tmp_path):
    """``at(endpoint)``: the Hub is there, for this process."""

    def place(endpoint: str) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")

    return place


@pytest.fixture(scope="module")
def model(run, tmp_path_factory) -> Path:
    return export_here(run, tmp_path_factory.mktemp("exported") / "model")


@pytest.mark.parametrize("private", [False, True])
def test_repositories_are_public_unless_asked(hub, at, model, private):
    at(hub.endpoint)
    assert push(model, "model", private) == f"{hub.endpoint}/me/model/commit/abc"
    [created] = [json.loads(body) for path, _, body in hub.requests if path == "/api/repos/create"]
    assert bool(created.get("private", created.get("visibility") == "private")) == private


def test_a_hub_out_of_reach_is_named(at, model):
    at("http://127.0.0.1:9")
    with pytest.raises(HubError, match="cannot be reached to publish 'model'"):
        push(model, "model")


def test_a_name_that_cannot_be_is_refused(hub, at, model):
    at(hub.endpoint)
    with pytest.raises(HubError, match="'a/b/c' cannot name a repository"):
        push(model, "a/b/c")
    assert hub.requests == []
