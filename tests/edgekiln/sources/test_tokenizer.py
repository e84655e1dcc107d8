"""Special tokens and chat templates of a checkpoint, compared with what transformers makes of the same files."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from edgekiln.engine.chat_templates import read_chat_templates, write_chat_templates
from edgekiln.errors import RequestError, SourceError
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.resolve import resolve
from edgekiln.sources.tokenizer import TokenizerSource, load_tokenizer
from support.models import save_checkpoint, tiny_tokenizer

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
NO_TOKENS = dict.fromkeys(("bos_token", "eos_token", "pad_token"), ...)
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(directory, "llama", num_hidden_layers=1)
    return directory


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copied"))


def change(path: Path, values: Mapping[str, Any]) -> None:
    """Set keys of a JSON file; `...` removes one."""
    document = json.loads(path.read_text()) if path.is_file() else {}
    document |= values
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))


def load(directory: Path) -> TokenizerSource:
    path = directory / "generation_config.json"
    generation = json.loads(path.read_text()) if path.is_file() else None
    return load_tokenizer(directory, AutoConfig.from_pretrained(directory), generation)


def tokenizer_of(source: TokenizerSource) -> Tokenizer:
    return Tokenizer(FastTokenizer.from_str(source.json), source.special_tokens, source.chat_template)


def generation_of_transformers(directory: Path) -> GenerationConfig:
    """The generation config that `AutoModelForCausalLM.from_pretrained` takes."""
    if (directory / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(directory)
    return GenerationConfig.from_pretrained(directory, config_file_name="config.json", _from_model_config=True)


def ids_of(value: object) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]  # type: ignore[list-item]


@pytest.mark.parametrize(
    "tokenizer", [{}, dict.fromkeys(("bos_token", "eos_token", "pad_token"), ...)], ids=["own", "none"]
)
@pytest.mark.parametrize(
    "generation", [None, {}, {"eos_token_id": 259}, {"eos_token_id": [259, 257], "pad_token_id": 0}]
)
@pytest.mark.parametrize("config", [dict.fromkeys(SPECIAL, ...), dict.fromkeys(SPECIAL), {"eos_token_id": [260, 261]}])
def test_ends_are_those_of_transformers(
    copied: Path, tokenizer: dict[str, Any], generation: dict[str, Any] | None, config: dict[str, Any]
) -> None:
    change(copied / "config.json", config)
    change(copied / "tokenizer_config.json", tokenizer)
    (copied / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (copied / "generation_config.json").write_text(json.dumps(generation))
    theirs, named = AutoTokenizer.from_pretrained(copied), generation_of_transformers(copied)
    ours = load(copied).special_tokens
    assert sorted(ours.eos) == sorted({*ids_of(theirs.eos_token_id), *ids_of(named.eos_token_id)})
    assert ours.bos == (named.bos_token_id if theirs.bos_token_id is None else theirs.bos_token_id)
    assert ours.pad == (named.pad_token_id if theirs.pad_token_id is None else theirs.pad_token_id)
    assert ours.template_variables == theirs.special_tokens_map


@pytest.mark.parametrize("where", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("value", [-1, 320, 2**31, 2**40, 2**70, [-1, 259], []])
def test_ids_outside_the_vocabulary_are_none(copied: Path, where: str, value: Any) -> None:
    change(copied / "tokenizer_config.json", NO_TOKENS)
    change(copied / "config.json", dict.fromkeys(SPECIAL, ...))
    (copied / "generation_config.json").unlink()
    change(copied / where, {"eos_token_id": value})
    assert load(copied).special_tokens.eos == ([259] if 259 in ids_of(value) else [])


@pytest.mark.parametrize("value", ["257", 1.5, True, {}, [None], [[257]], ["</s>"]])
def test_ids_that_are_no_integers_are_named(copied: Path, value: Any) -> None:
    path = copied / "generation_config.json"
    change(path, {"eos_token_id": value})
    with pytest.raises(SourceError, match=r"generation_config.json has eos_token_id .*: give a token id, or a list"):
        load_tokenizer(copied, AutoConfig.from_pretrained(copied), json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("key", "value"), [("bos_token", 5), ("added_tokens_decoder", []), ("tokenizer_class", 5), ("eos_token", [1])]
)
def test_a_setting_of_the_wrong_type_is_that_of_its_file(copied: Path, key: str, value: Any) -> None:
    change(copied / "tokenizer_config.json", {key: value})
    with pytest.raises(SourceError, match=r"tokenizer_config\.json cannot be read \(.*\): download it again"):
        load(copied)


NAMED = {"default": "D{{ bos_token }}", "tool_use": "T{{ tools | tojson }}", "rag / x": "R"}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": "one"},
        {"tokenizer_config.json": [{"name": name, "template": text} for name, text in NAMED.items()]},
        {"tokenizer_config.json": [{"name": "rag", "template": "R"}, {"name": "tool_use", "template": "T"}]},
        {"chat_template.jinja": "file", "tokenizer_config.json": "one"},
        {
            "chat_template.jinja": "file",
            "additional_chat_templates/tool_use.jinja": "T",
            "tokenizer_config.json": "one",
        },
        {"additional_chat_templates/tool_use.jinja": "T", "tokenizer_config.json": "one"},
        {"additional_chat_templates/rag.jinja": "R"},
        {"chat_template.jinja": "{{ messages[0].content }}\r\nend\n\n"},
        {},
    ],
)
def test_templates_are_chosen_as_in_transformers(copied: Path, tmp_path: Path, files: dict[str, Any]) -> None:
    (copied / "chat_template.jinja").unlink(missing_ok=True)
    change(copied / "tokenizer_config.json", {"chat_template": ...})
    for name, content in files.items():
        (copied / name).parent.mkdir(exist_ok=True)
        if name.endswith(".json"):
            change(copied / name, {"chat_template": content})
        else:
            (copied / name).write_text(content, newline="")
    theirs, source = AutoTokenizer.from_pretrained(copied), load(copied)
    engine = tmp_path / "engine"
    engine.mkdir()
    write_chat_templates(engine, source.chat_template)
    read = read_chat_templates(engine, [path.name for path in engine.iterdir()])
    ours = Tokenizer(FastTokenizer.from_str(source.json), source.special_tokens, read)
    for name in (None, *(theirs.chat_template if isinstance(theirs.chat_template, dict) else [])):
        for tools in (None, [], TOOLS):
            try:
                expected = theirs.apply_chat_template(
                    MESSAGES, chat_template=name, tools=tools, tokenize=False, add_generation_prompt=True
                )
            except ValueError:
                with pytest.raises(RequestError, match=r"no default: name one of|has no chat template"):
                    ours.apply_chat_template(MESSAGES, chat_template=name, tools=tools)
            else:
                assert ours.apply_chat_template(MESSAGES, chat_template=name, tools=tools) == expected
    with pytest.raises(RequestError, match=r"there is no chat template 'nothing': the engine has|has no chat template"):
        ours.apply_chat_template(MESSAGES, chat_template="nothing")


def test_the_template_of_a_processor_is_the_last_resort(copied: Path) -> None:
    (copied / "chat_template.json").write_text(json.dumps({"chat_template": "processor"}))
    assert load(copied).chat_template != "processor"
    (copied / "chat_template.jinja").unlink()
    change(copied / "tokenizer_config.json", {"chat_template": ...})
    assert load(copied).chat_template == "processor"
    (copied / "chat_template.json").write_text("[]")
    with pytest.raises(SourceError, match=r"chat_template.json holds no JSON object"):
        load(copied)


@pytest.mark.parametrize(
    "template", [5, [{"name": "a", "template": 5}], "\ud800", [{"name": "x" * 300, "template": ""}]]
)
def test_templates_that_are_no_text_are_named(copied: Path, template: Any) -> None:
    (copied / "chat_template.jinja").unlink()
    change(copied / "tokenizer_config.json", {"chat_template": template})
    with pytest.raises(
        SourceError, match=r"chat template (that is not text|'x+.* has a name that is too long)"
    ) as caught:
        load(copied)
    assert "\n" not in str(caught.value)


def test_named_special_tokens_reach_the_template_of_an_engine(copied: Path) -> None:
    change(
        copied / "tokenizer_config.json",
        {"unk_token": "<|pad|>", "sep_token": "<|system|>", "extra_special_tokens": {"image_token": "<|user|>"}},
    )
    template = "{{ unk_token }}{{ sep_token }}{{ image_token }}{{ cls_token }}{{ bos_token }}{{ eos_token }}"
    (copied / "chat_template.jinja").write_text(template)
    source = resolve(str(copied))
    ours = Tokenizer(FastTokenizer.from_str(source.tokenizer_json), source.special_tokens, source.chat_template)
    theirs = AutoTokenizer.from_pretrained(copied)
    assert ours.apply_chat_template(MESSAGES) == theirs.apply_chat_template(MESSAGES, tokenize=False)
    assert ours.encode_chat(MESSAGES).tolist() == theirs.apply_chat_template(MESSAGES, return_dict=False)


def test_the_tokenizer_is_not_changed_by_a_template(checkpoint: Path) -> None:
    source = load(checkpoint)
    assert tokenizer_of(source).encode("hi").tolist() == tiny_tokenizer().encode("hi")
