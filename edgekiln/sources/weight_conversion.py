"""From the names and layouts a checkpoint stores to those of the transformers model, lazily.

transformers 5 renames, merges and splits tensors while it loads (Mixtral's experts become one tensor, a vision model's
decoder loses its prefix). This applies transformers' own mapping one tensor at a time, so that nothing is read before
it is asked for and no second copy of the checkpoint exists.
"""

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.errors import SourceError, UnsupportedModelError

# Buffers that old checkpoints carry and no model reads any more.
_OBSOLETE = re.compile(r"rotary_emb\.inv_freq$|attn\.masked_bias$|attention\.masked_bias$")
_NAMES_IN_MESSAGE = 3


class StoredTensors(Protocol):
    """What a checkpoint format offers: names as stored, shapes without reading, one tensor at a time."""

    nbytes: int

    def keys(self) -> Iterable[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str) -> torch.Tensor: ...
    def stored(self, name: str) -> PrequantizedWeight | None: ...


@dataclass
class _Recipe:
    """How one or more tensors of the model come from stored ones."""

    first_target: str
    sources: list[tuple[str, str]] = field(default_factory=list)  # (pattern it matched, stored name)
    converter: WeightConverter | None = None
    targets: tuple[str, ...] = ()


def meta_model(config: PretrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """The causal language model of `config` without memory for its weights.

    Raises:
        SourceError: the configuration contradicts itself.
        UnsupportedModelError: transformers has no causal language model for this configuration.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        # Each model class checks its configuration in its own way.
        if "Unrecognized configuration class" in str(error):
            raise UnsupportedModelError(
                f"model type {config.model_type} is not a causal language model: give a decoder-only text model"
            ) from error
        raise SourceError(
            f"the configuration of this {config.model_type} model does not make one: {one_line(error)}"
        ) from error


def one_line(error: Exception) -> str:
    """The beginning of an error's text, for a message of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class ConvertedWeights:
    """A `WeightReader` over stored tensors, by transformers' conversion mapping for `model`.

    Args:
        stored: the checkpoint.
        model: on the meta device; says which tensors there are and which are tied.
        where: named in errors.
        key_mapping: extra renamings, pattern -> replacement, before the model's own.

    Attributes:
        untied: the configuration ties tensors that the checkpoint stores with different values; as in transformers,
            they are then two tensors, and the model must be built with `tie_word_embeddings=False`.
        unused: stored names that the model has no place for, as in transformers' loading report.

    Raises:
        SourceError: tensors the model needs are missing, or have another shape; the message names them.
    """

    def __init__(
        self,
        stored: StoredTensors,
        model: PreTrainedModel,
        where: str,
        key_mapping: Mapping[str, str] | None = None,
    ) -> None:
        self._stored = stored
        self._model = model
        self._where = where
        self.nbytes = stored.nbytes
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self._recipes, self.unused = self._plan(dict(key_mapping or {}))
        self.untied = False
        self._aliases = self._tie()
        self._converted: dict[str, torch.Tensor] = {}
        self._check()

    def keys(self) -> Iterable[str]:
        return self._recipes.keys()

    def __contains__(self, name: object) -> bool:
        return name in self._recipes or name in self._aliases

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str) -> torch.Tensor:
        name = self._aliases.get(name, name)
        recipe = self._recipes[name]
        if recipe.converter is None:
            return self._stored.read(recipe.sources[0][1])
        if name not in self._converted:
            # Only one recipe's other targets wait here: they are read next or never.
            self._converted = self._convert(recipe)
        return self._converted.pop(name)

    def stored(self, name: str) -> PrequantizedWeight | None:
        """The weight as it arrives quantized; None where it is float, or made of several tensors."""
        recipe = self._recipes[self._aliases.get(name, name)]
        return self._stored.stored(recipe.sources[0][1]) if recipe.converter is None else None

    def _plan(self, key_mapping: dict[str, str]) -> tuple[dict[str, _Recipe], tuple[str, ...]]:
        transforms = get_model_conversion_mapping(self._model, key_mapping or None)
        renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
        by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
        ignored = self._model._keys_to_ignore_on_load_unexpected or ()
        recipes: dict[str, _Recipe] = {}
        unused = []
        # Natural order, as transformers has it: experts are merged in the order they come.
        for stored_name in sorted(self._stored.keys(), key=dot_natural_key):
            target, pattern = self._rename(stored_name, renamings, converters)
            if target not in self._shapes:
                if not _OBSOLETE.search(stored_name) and not any(re.search(entry, target) for entry in ignored):
                    unused.append(stored_name)
            elif pattern is None:
                recipes[target] = _Recipe(target, [(stored_name, stored_name)], None, (target,))
            else:
                converter = by_pattern[pattern]
                recipe = recipes.setdefault(target, _Recipe(target, [], converter, _targets(target, converter)))
                recipe.sources.append((pattern, stored_name))
        for recipe in list(recipes.values()):
            recipes.update(dict.fromkeys(recipe.targets, recipe))
        return recipes, tuple(unused)

    def _rename(
        self, name: str, renamings: list[WeightRenaming], converters: list[WeightConverter]
    ) -> tuple[str, str | None]:
        prefix = self._model.base_model_prefix
        target, pattern = rename_source_key(name, renamings, converters, prefix, self._shapes)
        if target not in self._shapes and name in self._shapes:
            return name, None
        return target, pattern

    def _tie(self) -> dict[str, str]:
        aliases = {}
        for target, source in self._model.all_tied_weights_keys.items():
            if source not in self._recipes and target in self._recipes:
                self._recipes[source] = self._recipes[target]
            if source in self._recipes and target in self._recipes and not self._same(source, target):
                self.untied = True
            elif source in self._recipes:
                self._recipes.pop(target, None)
                aliases[target] = source
        return aliases

    def _same(self, source: str, target: str) -> bool:
        first, second = self._recipes[source], self._recipes[target]
        if first is second:
            return True
        return torch.equal(self._stored.read(first.sources[0][1]), self._stored.read(second.sources[0][1]))

    def _check(self) -> None:
        may_miss = self._model._keys_to_ignore_on_load_missing or ()
        missing = [
            name for name in self._shapes if name not in self and not any(re.search(entry, name) for entry in may_miss)
        ]
        if missing:
            hint = f"; it holds {_some(self.unused)}, which the model has no place for" if self.unused else ""
            raise SourceError(f"{self._where} lacks {_some(missing)} that {type(self._model).__name__} needs{hint}")
        for name, recipe in self._recipes.items():
            if recipe.converter is None:
                found, wanted = tuple(self._stored.shape(recipe.sources[0][1])), self._shapes[name]
                if found != wanted:
                    raise SourceError(
                        f"{self._where} holds {recipe.sources[0][1]} of shape {list(found)}, its configuration asks "
                        f"for {list(wanted)}: the two do not belong together"
                    )
            else:
                self._check_merge(name, recipe, recipe.converter)

    def _check_merge(self, name: str, recipe: _Recipe, converter: WeightConverter) -> None:
        counts = {pattern: 0 for pattern in converter.source_patterns}
        for pattern, _ in recipe.sources:
            counts[pattern] += 1
        merged = any(isinstance(operation, MergeModulelist) for operation in converter.operations)
        wanted = self._shapes[name][0] if merged else 1
        for pattern, count in counts.items():
            if count != wanted:
                raise SourceError(
                    f"{self._where} holds {count} tensors {pattern} for {name}, the model needs {wanted}: "
                    "download it again"
                )

    def _convert(self, recipe: _Recipe) -> dict[str, torch.Tensor]:
        converter = copy.deepcopy(recipe.converter)
        assert converter is not None
        for pattern, stored_name in recipe.sources:
            # Typed as a future, but a callable is what it takes for reading without threads.
            read: Any = partial(self._stored.read, stored_name)
            converter.add_tensor(recipe.first_target, stored_name, pattern, read)
        found: dict[str, Any] = converter.convert(recipe.first_target, model=self._model, config=self._model.config)
        tensors = {name: value[0] if isinstance(value, list) else value for name, value in found.items()}
        for name in recipe.targets:
            if name not in tensors or tuple(tensors[name].shape) != self._shapes[name]:
                shape = list(tensors[name].shape) if name in tensors else "nothing"
                raise UnsupportedModelError(
                    f"{self._where}: merging {recipe.sources[0][1]} and its like gave {shape} for {name}, "
                    f"the model needs {list(self._shapes[name])}"
                )
        return tensors


def _targets(first: str, converter: WeightConverter) -> tuple[str, ...]:
    pattern = converter.target_patterns[0]
    return tuple(first.replace(pattern, other, 1) for other in converter.target_patterns)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMES_IN_MESSAGE} more" if len(listed) > _NAMES_IN_MESSAGE else ""
    return ", ".join(listed[:_NAMES_IN_MESSAGE]) + more
