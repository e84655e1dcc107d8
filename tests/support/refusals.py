"""What running an engine refuses: one table of cases for the Python API, the command line and the C API.

Every case has one sentence, which all three give. Where a case cannot be written in one of them, the column says why.
In a sentence, {engine} is the engine directory, {json} its engine.json.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekiln.engine.directory import sha256
from edgekiln.engine.manifest import SCHEMA_VERSION
from edgekiln.pipeline.chat_segments import find_segments
from edgekiln.runtimes.threads import available_processors
from support.chat_templates import CHATML, IN_TURNS, QWEN3, STRICT, renderer
from support.models import VOCABULARY

LONGEST = 256  # max_length of the engine
Interface = Literal["python", "cli", "c"]


@dataclass(frozen=True)
class Refusal:
    """A case.

    Attributes:
        name: of the test.
        sentence: the error.
        damage: changes a copy of an engine.
        path: in place of the engine's.
        open: arguments of opening the engine.
        prompt: text, token ids or messages.
        options: arguments of generating.
        without: interface -> why the case cannot be written there.
        c_sentence: the C API's error, where it cannot know the words of the other two.
    """

    name: str
    sentence: str
    damage: Callable[[Path], object] | None = None
    path: str | None = None
    open: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | list[int] | list[dict[str, str]] = "a"
    options: Mapping[str, Any] = field(default_factory=dict)
    without: Mapping[Interface, str] = field(default_factory=dict)
    c_sentence: str | None = None

    @property
    def is_of_opening(self) -> bool:
        """Whether the case needs an engine of its own."""
        return self.damage is not None or self.path is not None or bool(self.open)

    def expected(self, engine: Path | str, interface: Interface = "python") -> str:
        """The sentence for an engine at a path."""
        sentence = self.c_sentence if self.c_sentence and interface == "c" else self.sentence
        return sentence.replace("{engine}", str(engine)).replace("{json}", f"{engine}/engine.json")


def change(**values: object) -> Callable[[Path], object]:
    """Set fields of engine.json, named as architecture__layers; `...` removes one."""

    def damage(engine: Path) -> None:
        path = engine / "engine.json"
        document = json.loads(path.read_text())
        for name, value in values.items():
            *parents, last = name.split("__")
            fields = document
            for parent in parents:
                fields = fields[parent]
            if value is ...:
                del fields[last]
            else:
                fields[last] = value
        path.write_text(json.dumps(document))

    return damage


def write(text: str | bytes) -> Callable[[Path], object]:
    """Write engine.json."""
    return lambda engine: (engine / "engine.json").write_bytes(text if isinstance(text, bytes) else text.encode())


def edit(name: str, content: bytes | None, hashed: bool = False) -> Callable[[Path], object]:
    """Write or remove a file of the engine; `hashed` enters its SHA-256, so that only its content is wrong."""

    def damage(engine: Path) -> None:
        path = engine / name
        path.unlink() if content is None else path.write_bytes(content)
        if hashed:
            files = json.loads((engine / "engine.json").read_text())["files"]
            change(files=files | {name: sha256(path)})(engine)

    return damage


def _remove_template(engine: Path) -> None:
    files = json.loads((engine / "engine.json").read_text())["files"]
    names = ("chat_template.jinja", "chat_segments.json")
    change(files={name: digest for name, digest in files.items() if name not in names})(engine)
    for name in names:
        (engine / name).unlink()


def _use_template(template: str) -> Callable[[Path], object]:
    """Give the engine another chat template, also as segments for the C API."""

    def damage(engine: Path) -> None:
        segments = find_segments(renderer(template))
        assert segments is not None
        edit("chat_template.jinja", template.encode(), hashed=True)(engine)
        edit("chat_segments.json", segments.model_dump_json().encode(), hashed=True)(engine)

    return damage


def _damaged(reason: str) -> str:
    return f"{{json}} is damaged: {reason}, build the engine again"


_VERSION = f"{{json}} has schema version {{}}, this edgekiln reads version {SCHEMA_VERSION}: "
_SHA = " is damaged or was edited (its SHA-256 differs): build the engine again"
_DIRECTORIES = [
    Refusal("empty path", "the path of the engine is empty: give its directory", path=""),
    Refusal(
        "path of nothing",
        "no engine directory at a b: build one with `edgekiln engine MODEL -o a b`",
        path="a b",
    ),
    Refusal(
        "no directory",
        "no engine directory at {engine}: build one with `edgekiln engine MODEL -o {engine}`",
        shutil.rmtree,
    ),
    Refusal(
        "no engine",
        "{engine} has no engine.json, so it is not an engine directory",
        lambda engine: (engine / "engine.json").unlink(),
    ),
    Refusal(
        "missing weights", "{engine}/weights.bin is missing from the engine: build it again", edit("weights.bin", None)
    ),
    Refusal("edited weights", "{engine}/weights.bin" + _SHA, edit("weights.bin", b"0")),
    Refusal("edited graph", "{engine}/generate.onnx" + _SHA, edit("generate.onnx", b"0")),
    Refusal("edited tokenizer", "{engine}/tokenizer.json" + _SHA, edit("tokenizer.json", b"{}")),
    Refusal(
        "file outside",
        "{engine}/../outside is missing from the engine: build it again",
        change(**{"files__../outside": "0"}),
    ),
    Refusal(
        "graph that is no file",
        "{json} names other.onnx as its generate graph but lists no such file: build the engine again",
        change(graphs__generate="other.onnx"),
    ),
    Refusal(
        "unknown target",
        "{engine} is for target tpu, which this edgekiln does not run: build it for one that `edgekiln doctor` lists",
        change(target="tpu"),
    ),
    Refusal(
        "tokenizer that is not JSON",
        "{engine}/tokenizer.json is damaged: it is not JSON, build the engine again",
        edit("tokenizer.json", b"{", hashed=True),
    ),
]
_DOCUMENTS = [
    *(
        Refusal(f"engine.json {name}", _damaged("it is not JSON"), write(text))
        for name, text in {
            "empty": "",
            "cut": '{"schema_version": 5',
            "not UTF-8": b'{"name": "\xff"}',
            "deep": "[" * 100_000,
            "NaN": '{"schema_version": NaN}',
            "lone surrogate": '{"name": "\\ud800"}',
        }.items()
    ),
    *(
        Refusal(f"engine.json {text}", _damaged("it is not an object"), write(text))
        for text in ("[]", "null", "7", '"engine"')
    ),
    Refusal("no version", _damaged("schema_version: it is missing"), write("{}")),
    *(
        Refusal(
            f"version {version!r}", _damaged("schema_version: it is not an integer"), change(schema_version=version)
        )
        for version in ("3", 3.5, True, [3], 2**63, 2**70)
    ),
    *(
        Refusal(f"version {version}", _VERSION.replace("{}", str(version)) + fix, change(schema_version=version))
        for version, fix in (
            (1, "build the engine again"),
            (-1, "build the engine again"),
            (SCHEMA_VERSION + 1, "upgrade edgekiln"),
        )
    ),
]
# Field -> (value, reason)
_FIELDS: dict[str, list[tuple[object, str]]] = {
    "name": [(..., "it is missing"), (None, "it is missing"), (7, "it is not a string")],
    "novelty": [(1, "it is not known")],
    "architecture": [([], "it is not an object"), (..., "it is missing")],
    "architecture__novelty": [(None, "it is not known")],
    "architecture__layers": [
        (..., "it is missing"),
        ("4", "it is not an integer"),
        (4.5, "it is not an integer"),
        (4.0, "it is not an integer"),
        (True, "it is not an integer"),
        (2**64, "it is not an integer"),
        (0, "it is 0, the least is 1"),
        (-1, "it is -1, the least is 1"),
    ],
    "architecture__kv_heads": [(7, "it is not a list"), ("many", "it is not a list")],
    "graphs": [([], "it is not an object")],
    "graphs__score": [(7, "it is not a string"), (None, "it is missing")],
    "io__logits": [(7, "it is not a string")],
    "io__novelty": [("x", "it is not known")],
    "kv_cache__layout": [("paged", "paged is not known"), (7, "it is not a string")],
    "kv_cache__dtype": [("int3", "int3 is not known")],
    "kv_cache__windows": [(7, "it is not a list")],
    "kv_cache__states": [(7, "it is not a list")],
    "tensorrt": [(7, "it is not an object")],
    "special_tokens__bos": [("1", "it is not an integer"), (0.5, "it is not an integer")],
    "special_tokens__add_bos": [("yes", "it is not true or false"), (1, "it is not true or false")],
    "special_tokens__eos": [(7, "it is not a list")],
    "special_tokens__pad": [(-1, "it is -1, the least is 0")],
    "special_tokens__template_variables": [([], "it is not an object")],
    "special_tokens__template_variables__bos_token": [
        (1, "it is not a string or a list of strings"),
        (["a", 1], "it is not a string or a list of strings"),
        (None, "it is missing"),
    ],
    "sampling__temperature": [("1", "it is not a number"), (True, "it is not a number"), ([], "it is not a number")],
    "sampling__top_k": [(1.5, "it is not an integer"), (-1, "it is -1, the least is 0")],
    "sampling__top_p": [(1.5, "it is not from 0 to 1")],
    "sampling__repetition_penalty": [(0, "it is not more than 0")],
    "files": [(7, "it is not an object")],
    "files__weights.bin": [(7, "it is not a string")],
    "versions": [([], "it is not an object")],
}
_FIELD_CASES = [
    Refusal(
        f"{name.replace('__', '.')} {'absent' if value is ... else repr(value)}",
        _damaged(f"{name.replace('__', '.')}: {reason}"),
        change(**{name: value}),
    )
    for name, cases in _FIELDS.items()
    for value, reason in cases
]
_STATE = {"shape": [4, 8], "dtype": "float32"}
# What is wrong with several fields together, and the fields.
_TOGETHER: dict[str, dict[str, object]] = {
    "architecture.kv_heads.1: it is 0, the least is 1": {"architecture__kv_heads": [2, 0, 2, 2]},
    "architecture.head_dims.2: it is not an integer": {"architecture__head_dims": [16, 16, "16", 16]},
    "architecture: 4 layers have 3 kv_heads and 4 head_dims": {"architecture__kv_heads": [2] * 3},
    "architecture: 1000000000 layers have 4 kv_heads and 4 head_dims": {"architecture__layers": 10**9},
    "kv_cache.states.1.shape: it is missing": {"kv_cache__states": [_STATE, {"dtype": "float32"}, 7]},
    "kv_cache.states.0: it has 9 sizes": {"kv_cache__states": [{**_STATE, "shape": [1] * 9}]},
    "kv_cache.states.0: it has 3 times 1000000000000 elements": {
        "kv_cache__states": [{**_STATE, "shape": [3, 10**12]}]
    },
    "io.past_state: generate.onnx has no input past_state.0": {"kv_cache__states": [_STATE]},
    "io: past_state has no {state}": {"io__past_state": "past.{layer}"},
    "io: present_state has the name of past_state": {"io__present_state": "past_state.{state}"},
    "architecture: a vocabulary of 320 for 1000000000000 positions": {"architecture__max_length": 10**12},
    "architecture.vocab_size: logits of generate.onnx is not of 321 tokens": {"architecture__vocab_size": 321},
    "architecture: past.0.key of generate.onnx is not of 1 heads of size 16": {"architecture__kv_heads": [1] * 4},
    "kv_cache.dtype: past.0.key of generate.onnx is not int8": {"kv_cache__dtype": "int8"},
    "kv_cache.windows.1: it is -8, the least is 0": {"kv_cache__windows": [0, -8, 0, 0]},
    "kv_cache: a window of 1000000000000 tokens": {"kv_cache__windows": [0, 10**12, 0, 0]},
    "kv_cache: 2 windows for 4 KV cache layers": {"kv_cache__windows": [0, 8]},
    "io.window_start: it is missing": {"kv_cache__windows": [0, 8, 0, 8]},
    "io.sequence_length: it is missing": {"kv_cache__recompute_beyond": 8},
    "kv_cache.recompute_beyond: it is missing": {"io__sequence_length": "lengths"},
    "io.sequence_length: generate.onnx has no input lengths": {
        "kv_cache__recompute_beyond": 8,
        "io__sequence_length": "lengths",
    },
    "io: window_start has no {window}": {"io__window_start": "start"},
    "io.window_start: generate.onnx has no input start.8": {
        "kv_cache__windows": [0, 8, 0, 8],
        "io__window_start": "start.{window}",
    },
    "io: past_key has no {layer}": {"io__past_key": "past.key"},
    "io: logits is empty": {"io__logits": ""},
    "io: logits has the name of input_ids": {"io__logits": "input_ids"},
    "io.input_ids: generate.onnx has no input tokens": {"io__input_ids": "tokens"},
    "io.logits: generate.onnx has no output scores": {"io__logits": "scores"},
    "io.present_value: generate.onnx has no output v.0": {"io__present_value": "v.{layer}"},
    "special_tokens: 320 is not below the vocabulary of 320": {"special_tokens__eos": [257, VOCABULARY]},
    "graphs: generate is missing": {"graphs": {}},
    "files: tokenizer.json is missing": {"files": {}},
    "a?b: it is not known": {"a\nb": 1},
    "x" * 60 + "…: it is not known": {"x" * 1000: 1},
}
_TOGETHER_CASES = [Refusal(reason[:60], _damaged(reason), change(**fields)) for reason, fields in _TOGETHER.items()]
_C_DEFAULT = {"c": "0 is the default"}
_NO_CHUNK: dict[Interface, str] = {"cli": "run has no --chunk"}
_MOST_THREADS = f"threads must be at most {available_processors()}, the processors that this process may use, got "
_OPEN = [
    Refusal("threads 0", "threads must be at least 1, got 0", open={"threads": 0}, without=_C_DEFAULT),
    Refusal("threads -1", "threads must be at least 1, got -1", open={"threads": -1}),
    *(Refusal(f"threads {n}", f"{_MOST_THREADS}{n}", open={"threads": n}) for n in (1000, 10**9)),
    Refusal("chunk 0", "chunk must be at least 1, got 0", open={"chunk": 0}, without=_NO_CHUNK | _C_DEFAULT),
    Refusal("chunk -1", "chunk must be at least 1, got -1", open={"chunk": -1}, without=_NO_CHUNK),
    Refusal("chunk 2^31", "chunk must be below 2^31, got 2147483648", open={"chunk": 2**31}, without=_NO_CHUNK),
    Refusal(
        "unknown kernels",
        "kernels must be one of edgekiln, onnxruntime, got fast",
        open={"kernels": "fast"},
        without={"cli": "run has no --kernels", "c": "an enum"},
    ),
]
# Option -> (values, requirement)
_OPTIONS: dict[str, tuple[list[float], str]] = {
    "max_tokens": ([0, -1], "at least 1"),
    "temperature": ([-1.0, -1e-300, math.nan, math.inf, -math.inf], "0 or more"),
    "top_k": ([-1], "0 (off) or more"),
    "top_p": ([-0.5, 1.5, math.nan, math.inf], "in [0, 1]"),
    "min_p": ([-0.5, 1.0000001, math.nan], "in [0, 1]"),
    "repetition_penalty": ([0.0, -1.0, math.nan, math.inf], "more than 0"),
}
_OPTION_CASES = [
    *(
        Refusal(f"{name} {value}", f"{name} must be {requirement}, got {value}", options={name: value})
        for name, (values, requirement) in _OPTIONS.items()
        for value in values
    ),
    *(
        Refusal(
            f"seed {seed}",
            f"seed must be in [0, 2^64), got {seed}",
            options={"seed": seed},
            without={"c": "a uint64_t"},
        )
        for seed in (-1, 2**64)
    ),
    Refusal(
        "special tokens",
        "special_tokens must be one of auto, show, hide, got all",
        options={"special_tokens": "all"},
        without={"c": "an enum"},
    ),
    Refusal("empty stop string", "stop must be strings that are not empty", options={"stop": ["x", ""]}),
    Refusal(
        "stop string that is not UTF-8",
        "the text is not UTF-8 (byte 1): convert it first",
        options={"stop": ["a\udcff"]},
    ),
]
_NO_IDS: dict[Interface, str] = {"cli": "it takes text"}
_TOO_LONG = f"the engine holds {LONGEST}: shorten it, as the model holds no more"
_NO_ROOM = (
    f"which leaves no room for an answer in the {LONGEST} the engine holds: shorten it, as the model holds no more"
)
_USER = {"role": "user", "content": "a"}
_PROMPTS = [
    Refusal("empty text", "prompt is empty: give some text", prompt=""),
    Refusal("no ids", "prompt is empty: give at least one token", prompt=[], without=_NO_IDS),
    Refusal("long text", f"prompt has 257 tokens, {_TOO_LONG}", prompt="a" * 257),
    Refusal("long ids", f"prompt has 257 tokens, {_TOO_LONG}", prompt=[1] * 257, without=_NO_IDS),
    Refusal("text without room", f"prompt has 256 tokens, {_NO_ROOM}", prompt="a" * 256),
    Refusal("ids without room", f"prompt has 256 tokens, {_NO_ROOM}", prompt=[1] * 256, without=_NO_IDS),
    *(
        Refusal(
            f"id {token}",
            f"token id {token} is outside the vocabulary of {VOCABULARY}: check the tokenizer",
            prompt=[1, token],
            without=_NO_IDS,
        )
        for token in (-1, VOCABULARY, 2**62)
    ),
    Refusal(
        "text that is not UTF-8",
        "the text is not UTF-8 (byte 3): convert it first",
        prompt="aé\udcff",
    ),
    Refusal(
        "message that is not UTF-8",
        "the text is not UTF-8 (byte 0): convert it first",
        prompt=[{"role": "user", "content": "\udcff"}],
    ),
    Refusal(
        "no messages",
        "the conversation is empty: give at least one message",
        prompt=[],
        options={"chat": True},
        without={"cli": "--chat has a message"},
    ),
    Refusal(
        "no chat template",
        "the engine has no chat template: give a plain prompt instead",
        _remove_template,
        prompt=[_USER],
    ),
    *(
        Refusal(
            f"roles {' '.join(roles)}",
            f"the chat template does not take these messages: {reason}",
            _use_template(template),
            prompt=[{"role": role, "content": "a"} for role in roles],
            without={"cli": "its messages are a system message and a user's"},
            c_sentence=f"the chat template does not take these messages: {c_reason}",
        )
        for roles, template, reason, c_reason in (
            (
                ("user", "system"),
                STRICT + CHATML,
                "system is not first",
                "message 2 is a system message, which may only be the first",
            ),
            (
                ("user", "user"),
                STRICT + IN_TURNS + QWEN3,
                "no turns",
                "user and assistant must take turns, message 2 is of role user",
            ),
        )
    ),
    Refusal(
        "unknown role",
        "",
        prompt=[{"role": "tool", "content": "a"}],
        without={"python": "the template takes any role", "cli": "it has no roles"},
        c_sentence="this library renders messages of the roles assistant, system, user, got tool: leave such messages "
        "out, or render the chat template in the application and pass it as parts",
    ),
    Refusal("long message", f"prompt has 281 tokens, {_TOO_LONG}", prompt=[{"role": "user", "content": "a" * 278}]),
]
REFUSALS: tuple[Refusal, ...] = (
    *(*_DIRECTORIES, *_DOCUMENTS, *_FIELD_CASES, *_TOGETHER_CASES),
    *(*_OPEN, *_OPTION_CASES, *_PROMPTS),
)
