"""Hub downloads from a small server with the hub's protocol.

The client runs in its own process, because huggingface_hub reads the server's address when it is imported.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

COMMIT = "a" * 40
CHAT_TEMPLATES = {"default": "plain", "tool_use": "with tools"}
CLIENT = """
import json, sys
from edgekiln.errors import EdgekilnError
from edgekiln.sources.resolve import resolve
steps, answers = [], {}
for model_id in sys.argv[1:]:
    try:
        source = resolve(model_id, progress=lambda step, done: steps.append((step, done)))
        answers[model_id] = [source.name, list(source.weights.read("model.norm.weight").shape), source.chat_template]
    except EdgekilnError as error:
        answers[model_id] = f"{type(error).__name__}: {error}"
print(json.dumps({"answers": answers, "steps": steps}))
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    good = root / "good"
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**small, vocab_size=2000)).save_pretrained(good)
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(good)
    (good / "original").mkdir()
    (good / "original" / "other.safetensors").write_bytes(b"not wanted")
    (good / "additional_chat_templates").mkdir()
    for name, text in CHAT_TEMPLATES.items():
        (good / ("chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja")).write_text(
            text
        )
    (good / "pytorch_model.bin").write_bytes(b"never fetched")
    repositories = {"org/good": good}
    for name, config in {
        "pickle": {"model_type": "llama"},
        "code": {"model_type": "x", "auto_map": {"A": "b"}},
    }.items():
        path = repositories[f"org/{name}"] = root / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        (path / "pytorch_model.bin").write_bytes(b"never fetched")
    empty = repositories["org/gguf-only"] = root / "gguf-only"
    empty.mkdir()
    (empty / "model.gguf").write_bytes(b"GGUF")
    return repositories


@pytest.fixture(scope="module")
def hub(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.split("?")[0].lstrip("/")
            if self.command == "GET":
                requests.append(path)
            about = path.startswith("api/models/")
            owner, name, *rest = [*path.removeprefix("api/models/").split("/"), "", ""]
            kind, revision = rest[:2]
            directory = repositories.get(f"{owner}/{name}")
            if directory is None:
                self.answer(401, X_Error_Code="RepoNotFound")
            elif revision not in ("main", COMMIT) and not (about and kind == ""):
                self.answer(404, X_Error_Code="RevisionNotFound")
            else:
                files = {str(file.relative_to(directory)): file for file in directory.rglob("*") if file.is_file()}
                if about:
                    self.describe(kind, f"{owner}/{name}", files)
                else:
                    self.send(files.get("/".join(rest[2:]).rstrip("/")))

        def describe(self, kind: str, name: str, files: dict[str, Path]) -> None:
            rows = [
                {"type": "file", "path": path, "size": file.stat().st_size, "oid": sha(file)[:40]}
                for path, file in files.items()
            ]
            info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}
            body = json.dumps(rows if kind == "tree" else info).encode()
            self.answer(200, body, Content_Type="application/json")

        def send(self, file: Path | None) -> None:
            if file is None:
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            else:
                self.answer(200, file.read_bytes(), ETag=f'"{sha(file)}"', X_Repo_Commit=COMMIT)

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def ask(home: Path, endpoint: str, *model_ids: str, offline: bool = False) -> dict:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *model_ids],
        capture_output=True,
        text=True,
        env={**kept, **settings},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_downloads_only_the_files_of_an_engine_and_then_works_offline(
    tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    endpoint, requests = hub
    requests.clear()
    found = ask(tmp_path, endpoint, "org/good", "org/pickle", "org/code", "org/gguf-only", "org/none", "org/good@v9")
    answers = found["answers"]
    assert answers["org/good"] == ["good", [32], CHAT_TEMPLATES]
    assert "no safetensors weights" in answers["org/pickle"]
    assert "wants to run model code" in answers["org/code"]
    assert "has no config.json" in answers["org/gguf-only"]
    assert "nor a public model on the hub" in answers["org/none"]
    assert "no such revision" in answers["org/good@v9"]
    fetched = [path for path in requests if "/resolve/" in path]
    assert any(path.endswith("model.safetensors") for path in fetched)
    assert not any(path.endswith((".bin", "other.safetensors")) for path in fetched)
    shares = [done for step, done in found["steps"] if step == "downloading org/good"]
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert any(0 < share < 1 for share in shares)

    later = ask(tmp_path, endpoint, "org/good", "org/other", offline=True)["answers"]
    assert later["org/good"] == ["good", [32], CHAT_TEMPLATES]
    assert "offline mode is set" in later["org/other"]


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    answer = ask(tmp_path, "http://127.0.0.1:9", "org/good")["answers"]["org/good"]
    assert answer.startswith("SourceError: no model 'org/good'")
    assert "the hub cannot be reached" in answer
