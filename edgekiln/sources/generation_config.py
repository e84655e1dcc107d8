"""generation_config.json: the sampling defaults, and what of it engines do not apply.

The values that are taken are those that transformers' `generate` accepts, and they mean the same. transformers checks a
value where it uses it: without `do_sample`, any value of the options of sampling is legal.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekiln.engine.manifest import SamplingDefaults
from edgekiln.errors import SourceError
from edgekiln.sources.checkpoint_schema import check_token_ids
from edgekiln.sources.json_file import read_json

GENERATION_FILE = "generation_config.json"
_MAX_INT = 2**31 - 1
# What transformers samples with where the file says nothing.
_TRANSFORMERS_DEFAULTS = {"temperature": 1.0, "top_k": 50}
# Options that change the answer of transformers and are not applied -> the values that change nothing.
_NOT_APPLIED: Mapping[str, tuple[Any, ...]] = {
    "no_repeat_ngram_size": (0,),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "bad_words_ids": ([],),
    "sequence_bias": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_beams": (1,),
    "guidance_scale": (1,),
    "stop_strings": ([], ""),
    "watermarking_config": (),
}
_NOT_APPLIED_TO_SAMPLES: Mapping[str, tuple[Any, ...]] = {
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
}


def read_generation_config(directory: Path) -> dict[str, Any] | None:
    """generation_config.json of a checkpoint; None if there is none.

    Raises:
        SourceError: it is no JSON object, or a token id is no integer or out of range.
    """
    path = directory / GENERATION_FILE
    if not path.is_file():
        return None
    generation = read_json(path)
    check_token_ids(generation, path)
    return generation


def sampling_defaults(generation: Mapping[str, Any], path: Path) -> SamplingDefaults:
    """Sampling defaults of a generation_config.json.

    Without `do_sample` transformers decodes greedily, so temperature, top_k, top_p and min_p are left out.

    Args:
        generation: the file's values; null is the same as no value.
        path: the file, for error messages.

    Raises:
        SourceError: a value that `generate` does not accept; the message names it.
    """
    sample = generation.get("do_sample")
    if sample is not None and not isinstance(sample, bool):
        raise _refused(path, "do_sample", sample, "true or false")
    values: dict[str, Any] = {"repetition_penalty": _number(generation, "repetition_penalty", path)}
    if (penalty := values["repetition_penalty"]) is not None and not penalty > 0:
        raise _refused(path, "repetition_penalty", penalty, "a number more than 0")
    if sample:
        values |= _filters({**_TRANSFORMERS_DEFAULTS, **_given(generation)}, path)
    return SamplingDefaults(**values)


def not_applied(generation: Mapping[str, Any]) -> list[str]:
    """Notes on options of a generation_config.json that change the answers of transformers, but not of engines."""
    names = {**_NOT_APPLIED, **(_NOT_APPLIED_TO_SAMPLES if generation.get("do_sample") is True else {})}
    return [
        f"{name} of {GENERATION_FILE} is not applied"
        for name, neutral in names.items()
        if generation.get(name) is not None and generation[name] not in neutral
    ]


def _given(generation: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in generation.items() if value is not None}


def _filters(generation: Mapping[str, Any], path: Path) -> dict[str, Any]:
    temperature, top_p, min_p = (_number(generation, name, path) for name in ("temperature", "top_p", "min_p"))
    top_k = generation["top_k"]
    if temperature is not None and temperature < 0:
        raise _refused(path, "temperature", temperature, "a number that is not negative")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not top_k >= 0:
        raise _refused(path, "top_k", top_k, "an integer that is not negative")
    if top_p is not None and top_p < 0:
        raise _refused(path, "top_p", top_p, "a number from 0 to 1")
    if min_p is not None and not 0 <= min_p <= 1:
        raise _refused(path, "min_p", min_p, "a number from 0 to 1")
    # transformers has no filter for a top_p of 1 or more. More tokens than any vocabulary has are all of them.
    return {
        "temperature": temperature,
        "top_k": min(top_k, _MAX_INT),
        "top_p": None if top_p is None else min(top_p, 1.0),
        "min_p": min_p,
    }


def _number(generation: Mapping[str, Any], name: str, path: Path) -> float | None:
    value = generation.get(name)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
    raise _refused(path, name, value, "a finite number")


def _refused(path: Path, name: str, value: Any, wanted: str) -> SourceError:
    return SourceError(f"{path} has {name} {value!r:.60}, which must be {wanted}: correct it")
