"""Sampling defaults are those with which transformers samples; values that it does not accept are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList

from edgekiln.errors import SourceError
from edgekiln.runtimes.sampling.sampler import SamplingOptions
from edgekiln.sources.generation_config import not_applied, read_generation_config, sampling_defaults
from support.models import tiny_model

PATH = Path("generation_config.json")
NAN, INFINITY = float("nan"), float("inf")
ACCEPTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"do_sample": False, "temperature": [0.7], "top_p": "x", "top_k": NAN}, {}),
    ({"do_sample": None, "temperature": 0.7}, {}),
    ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
    ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
    ({"do_sample": True, "temperature": None, "top_k": None}, {"temperature": 1.0, "top_k": 50}),
    ({"do_sample": True, "temperature": 1e-6}, {"temperature": 1e-6, "top_k": 50}),
    ({"do_sample": True, "top_p": 0.0, "top_k": 0}, {"temperature": 1.0, "top_k": 0, "top_p": 0.0}),
    ({"do_sample": True, "top_p": 1.5, "top_k": 2**40}, {"temperature": 1.0, "top_k": 2**31 - 1, "top_p": 1.0}),
    ({"do_sample": True, "min_p": 1}, {"temperature": 1.0, "top_k": 50, "min_p": 1.0}),
]


@pytest.mark.parametrize(("values", "expected"), ACCEPTED)
def test_what_transformers_samples_with(values: dict[str, Any], expected: dict[str, Any]) -> None:
    defaults = sampling_defaults(values, PATH)
    assert defaults.model_dump(exclude_none=True) == expected
    SamplingOptions.from_defaults(defaults)


@pytest.mark.parametrize("values", [row[0] for row in ACCEPTED[3:]])
def test_transformers_accepts_the_same(values: dict[str, Any]) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    config, _ = model._prepare_generation_config(GenerationConfig(**values))
    ids = torch.tensor([[1, 2]])
    model._prepare_special_tokens(config, device="cpu")
    processors = model._get_logits_processor(config, 2, ids, None, LogitsProcessorList(), device="cpu")
    assert processors(ids, torch.randn(1, 320)).shape == (1, 320)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(
            ({"do_sample": True, "temperature": value}, "temperature .*, which must be a finite number")
            for value in ([0.7], True, "0.7", NAN, INFINITY, {}, 10**400)
        ),
        ({"do_sample": True, "temperature": -1}, "temperature -1.0, which must be a number that is not negative"),
        *(
            ({"do_sample": True, "top_k": value}, "top_k .*, which must be an integer")
            for value in (-1, 1.5, "5", True)
        ),
        ({"do_sample": True, "top_p": -0.1}, "top_p -0.1, which must be a number from 0 to 1"),
        ({"do_sample": True, "min_p": 2}, "min_p 2.0, which must be a number from 0 to 1"),
        ({"do_sample": "yes"}, "do_sample 'yes', which must be true or false"),
        ({"do_sample": 1}, "do_sample 1, which must be true or false"),
        ({"repetition_penalty": 0}, "repetition_penalty 0.0, which must be a number more than 0"),
        ({"repetition_penalty": "1.1"}, "repetition_penalty '1.1', which must be a finite number"),
    ],
)
def test_a_value_that_transformers_refuses_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=rf"^generation_config\.json has {message}") as caught:
        sampling_defaults(values, PATH)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text", ['"abc"', "[[257]]", "257.5", "true", "-7", "1099511627776", '{"a": 1}', "NaN", "1e999"]
)
@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "pad_token_id"])
def test_a_token_id_of_another_type_is_named(tmp_path: Path, key: str, text: str) -> None:
    (tmp_path / PATH).write_text(f'{{"{key}": {text}}}')
    with pytest.raises(SourceError, match=rf"generation_config\.json has {key} .*, which must be a token id or a list"):
        read_generation_config(tmp_path)


def test_options_that_are_not_applied_are_noted() -> None:
    assert not_applied({"no_repeat_ngram_size": 0, "num_beams": 1, "typical_p": 0.9, "suppress_tokens": None}) == []
    assert not_applied({"no_repeat_ngram_size": 3, "do_sample": True, "typical_p": 0.9}) == [
        "no_repeat_ngram_size of generation_config.json is not applied",
        "typical_p of generation_config.json is not applied",
    ]
