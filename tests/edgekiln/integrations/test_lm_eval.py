"""Results of lm-evaluation-harness for an engine, compared with those for the same model in transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from edgekiln.engine.directory import CHAT_TEMPLATE_FILE
from edgekiln.errors import EngineError, RequestError
from edgekiln.integrations.lm_eval import EngineLM
from edgekiln.pipeline.build import build_engine
from edgekiln.pipeline.options import BuildOptions
from edgekiln.runtimes.generate.generate import generate
from edgekiln.runtimes.generate.options import GenerateOptions
from edgekiln.runtimes.text.tokenizer import Tokenizer
from edgekiln.sources.resolve import resolve

QUESTIONS = [
    {"question": f"Which letter follows {letter}?", "choices": ["A kiln", "a", "Z!"], "answer": index % 3}
    for index, letter in enumerate("abcdefgh")
]
# The first text has more than the model's 256 tokens.
TEXTS = [{"text": "A kiln is hot. " * 30}, {"text": "Short."}]
COMMON = {"dataset_path": "json", "test_split": "train", "metadata": {"version": 1}}
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "a",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random llama in float32."""
    directory = tmp_path_factory.mktemp("engines") / "float"
    build_engine(resolve(str(tiny_checkpoint)), directory, BuildOptions(quant="none"))
    return directory


@pytest.fixture(scope="module")
def ours(engine: Path) -> EngineLM:
    return EngineLM(str(engine), batch_size=3)


@pytest.fixture(scope="module")
def theirs(tiny_checkpoint: Path) -> HFLM:
    return HFLM(pretrained=str(tiny_checkpoint), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of task files, which are JSON and so YAML."""
    directory = tmp_path_factory.mktemp("tasks")
    for name, task in TASKS.items():
        data = directory / f"{name}.jsonl"
        data.write_text("\n".join(map(json.dumps, TEXTS if name == "texts" else QUESTIONS)))
        files = {"data_files": {"train": str(data)}}
        (directory / f"{name}.yaml").write_text(json.dumps({"task": name, "dataset_kwargs": files, **COMMON, **task}))
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_tasks_give_the_results_of_transformers(ours: EngineLM, theirs: HFLM, tasks: Path, task: str) -> None:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results = [
        simple_evaluate(model, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True)
        for model in (ours, theirs)
    ]
    measured, expected = (result["results"][task] for result in results)
    metrics = {name: value for name, value in expected.items() if isinstance(value, float)}
    assert len(metrics) >= len(TASKS[task]["metric_list"])
    for name, value in metrics.items():
        assert measured[name] == pytest.approx(value, rel=1e-4), name
    samples = [[sample["resps"] for sample in result["samples"][task]] for result in results]
    if task == "answers":
        assert samples[0] == samples[1]
        assert any(answer for (answers,) in samples[0] for answer in answers)


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


def test_likelihoods_match_transformers(ours: EngineLM, theirs: HFLM) -> None:
    pairs = requests(
        "loglikelihood",
        ("The sky is", " blue"),
        ("The sky is", " b"),
        ("", "No context"),
        ("A space at the end ", "moves"),
        ("A long context. " * 40, "The end"),
        ("The sky is", " c"),
    )
    for (value, greedy), (expected, expected_greedy) in zip(
        ours.loglikelihood(pairs, disable_tqdm=True), theirs.loglikelihood(pairs, disable_tqdm=True), strict=True
    ):
        assert value == pytest.approx(expected, rel=1e-4)
        assert greedy == expected_greedy


def test_a_greedy_answer_is_recognized(ours: EngineLM) -> None:
    prompt = ours.tok_encode("The sky is")
    answer = [
        token.id
        for token in generate(ours.runtime, ours.engine_tokenizer, [np.array(prompt)], GenerateOptions(max_tokens=4))
    ]
    other = [*answer[:-1], (answer[-1] + 1) % 256]
    scored = ours._loglikelihood_tokens([(None, prompt, answer), (None, prompt, other)], disable_tqdm=True)
    assert [greedy for _, greedy in scored] == [True, False]
    assert scored[0][0] > scored[1][0]


def answers(model: EngineLM, *arguments: tuple[str, dict[str, Any]]) -> list[str]:
    return model.generate_until(requests("generate_until", *arguments), disable_tqdm=True)


def test_answers_keep_their_order_and_stop(ours: EngineLM) -> None:
    prompts = [f"Question {index}" for index in range(5)]
    plain = {"until": [], "max_gen_toks": 6}
    alone = [answers(ours, (prompt, plain))[0] for prompt in prompts]
    assert len(set(alone)) > 1
    assert answers(ours, *((prompt, plain) for prompt in prompts)) == alone
    end = alone[0][2]
    stopped = (prompts[0], {**plain, "until": end})
    assert answers(ours, stopped, (prompts[1], plain)) == [alone[0].partition(end)[0], alone[1]]
    drawn = (prompts[0], {**plain, "do_sample": True, "temperature": 5.0})
    assert answers(ours, drawn) == answers(ours, drawn) != [alone[0]]


def test_a_long_prompt_leaves_room_for_the_answer(ours: EngineLM) -> None:
    prompt, arguments = "A long context. " * 40, {"until": [], "max_gen_toks": 6}
    assert answers(ours, (prompt, arguments)) == answers(ours, (prompt[-(ours.max_length - 6) :], arguments))


def test_chat(ours: EngineLM, engine: Path, theirs: HFLM) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat)
    assert ours.chat_template(True) == (engine / CHAT_TEMPLATE_FILE).read_text()
    assert ours.chat_template(False) is None


def test_special_tokens_are_those_of_the_tokenizer(ours: EngineLM, theirs: HFLM) -> None:
    assert ours.eot_token_id == theirs.eot_token_id
    assert ours.prefix_token_id == theirs.prefix_token_id


def test_template_variables_and_named_templates(engine: Path) -> None:
    model = EngineLM(str(engine), enable_thinking=False, chat_template_args={"a": "<|end|>"})
    own = model.engine_tokenizer
    templates = {"default": "{{ enable_thinking }}{{ a }}{{ messages[0].content }}", "other": "other"}
    model.engine_tokenizer = Tokenizer(own._tokenizer, own.special_tokens, templates)
    chat = [{"role": "user", "content": "Hi"}]
    assert model.chat_template(True) == templates["default"]
    assert model.apply_chat_template(chat) == "False<|end|>Hi"
    assert own.special_tokens.eos[0] in model.tok_encode(model.apply_chat_template(chat))
    assert model.chat_template("other") == "other"
    assert model.apply_chat_template(chat) == "other"
    with pytest.raises(RequestError, match="there is no chat template 'nothing': the engine has default, other"):
        model.chat_template("nothing")


def test_options_out_of_range(engine: Path, tmp_path: Path, ours: EngineLM) -> None:
    with pytest.raises(EngineError, match="no engine directory at"):
        EngineLM(str(tmp_path / "nothing"))
    with pytest.raises(RequestError, match="from 2 to the 256 tokens the engine holds, got 257"):
        EngineLM(str(engine), max_length=257)
    with pytest.raises(RequestError, match="has 300 tokens, max_length is 256"):
        ours.loglikelihood(requests("loglikelihood", ("x", "y" * 300)), disable_tqdm=True)


@pytest.mark.slow
def test_command_line(engine: Path, tasks: Path, tmp_path: Path) -> None:
    def harness(directory: Path) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "edgekiln.integrations.lm_eval",
            "run",
            "--model",
            "edgekiln",
            "--tasks",
            "choices",
        ]
        more = ["--model_args", f"engine={directory}", "--include_path", str(tasks), "--limit", "2"]
        return subprocess.run([*command, *more], capture_output=True, text=True, check=False)

    done = harness(engine)
    assert done.returncode == 0, done.stderr
    assert "acc_norm" in done.stdout
    failed = harness(tmp_path / "nothing")
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith(f"Error: no engine directory at {tmp_path / 'nothing'}")
    assert "Traceback" not in failed.stderr


def test_without_the_harness_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "lm_eval.py").write_text("raise ModuleNotFoundError(name='lm_eval')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    expected = "lm_eval is not installed: `pip install 'edgekiln[lm-eval]'`"
    command = python("-m", "edgekiln.integrations.lm_eval", "run")
    assert (command.returncode, command.stderr) == (2, f"Error: {expected}\n")
    module = python("-c", "import edgekiln.integrations.lm_eval")
    assert module.stderr.endswith(f"edgekiln.errors.EdgekilnError: {expected}\n")
