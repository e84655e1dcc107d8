"""Hub downloads from a small server with the hub's protocol.

The client runs in its own process, because huggingface_hub reads the server's address when it is imported.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from support.hub_server import HubServer, client_environment

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
def hub(repositories: dict[str, Path]) -> Iterator[HubServer]:
    with HubServer(repositories) as server:
        yield server


def ask(home: Path, endpoint: str, *model_ids: str, offline: bool = False) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *model_ids],
        capture_output=True,
        text=True,
        env=client_environment(home, endpoint, offline),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_downloads_only_the_files_of_an_engine_and_then_works_offline(tmp_path: Path, hub: HubServer) -> None:
    endpoint, requests = hub.endpoint, hub.requests
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
