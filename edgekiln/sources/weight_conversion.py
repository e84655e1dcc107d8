"""Convert a checkpoint's tensor names and layouts to those of the transformers model, one tensor at a time.

transformers 5 renames, merges and splits tensors while it loads a checkpoint: Mixtral's experts become one tensor, the
decoder of a vision-language model loses its prefix. `ConvertedWeights` applies transformers' own conversion mapping
lazily: a tensor is read when it is needed, and there is no second copy of the checkpoint in memory.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from edgekiln.calib.formats.prequantized import PrequantizedWeight
from edgekiln.errors import SourceError
from edgekiln.sources.conversion import Conversion
from edgekiln.sources.merged_codes import MergedCodes
from edgekiln.sources.merged_floats import MergedFloats
from edgekiln.sources.quantized.merge import kept_or_none, notes_of

# Buffers in old checkpoints that current models do not have.
_OBSOLETE = re.compile(r"rotary_emb\.inv_freq$|attn\.masked_bias$|attention\.masked_bias$")
_NAMES_IN_MESSAGE = 3


class CheckpointTensors(Protocol):
    """The tensors of a checkpoint under the names that the checkpoint gives them; see `WeightReader`."""

    nbytes: int

    def keys(self) -> Iterable[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str) -> torch.Tensor: ...
    def read_expert(self, name: str, index: int) -> torch.Tensor: ...
    def prequantized(self, name: str) -> PrequantizedWeight | None: ...


class ConvertedWeights:
    """The `WeightReader` of a checkpoint, by transformers' conversion mapping for `model`.

    Args:
        tensors: the checkpoint.
        model: the model on the meta device; defines which tensors are needed and which are tied.
        where: the checkpoint, for error messages.
        key_mapping: renamings (pattern -> replacement) that are applied before the model's own.
        part: the tensors of the model that are needed; None for all. Others are neither looked for nor read.
        may_tie: further weights (name -> the one it is tied to) that are tied where the checkpoint lacks them.

    Attributes:
        untied: the configuration ties weights that have different values in the checkpoint. As in transformers, they
            are then two weights, and the model must be built with `tie_word_embeddings=False`.
        tied: a weight of `may_tie` is tied, and the model must be built with `tie_word_embeddings=True`.
        unused: names in the checkpoint that the model does not have, as in transformers' loading report.

    Raises:
        SourceError: a tensor that the model needs is missing or has another shape; the message names it.
    """

    def __init__(
        self,
        tensors: CheckpointTensors,
        model: PreTrainedModel,
        where: str,
        key_mapping: Mapping[str, str] | None = None,
        part: Collection[str] | None = None,
        may_tie: Mapping[str, str] | None = None,
    ) -> None:
        self._tensors = tensors
        self._model = model
        self._where = where
        self.nbytes = tensors.nbytes
        state = model.state_dict()
        self._shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self._integers = {name for name, tensor in state.items() if not tensor.is_floating_point()}
        self._modules = {name for name, _ in model.named_modules()}
        self._part = frozenset(self._shapes if part is None else part)
        self._conversions, self.unused = self._map_names(dict(key_mapping or {}))
        self.untied = self.tied = False
        self._aliases = self._tie(may_tie or {})
        self._floats = MergedFloats(model, where, self._shapes, tensors.read, tensors.read_expert)
        self._codes = MergedCodes(model, tensors.shape, tensors.prequantized)
        self._check()

    def keys(self) -> Iterable[str]:
        return self._conversions.keys()

    def sources(self) -> set[str]:
        """Names in the checkpoint of the tensors that are needed."""
        return {name for conversion in self._conversions.values() for _, name in conversion.sources}

    def integers(self) -> dict[str, bool]:
        """Name in the checkpoint of each tensor that is needed -> whether the model has integers there."""
        return {
            name: target in self._integers
            for target, conversion in self._conversions.items()
            for _, name in conversion.sources
        }

    def __contains__(self, name: object) -> bool:
        return name in self._conversions or name in self._aliases

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str) -> torch.Tensor:
        name = self._aliases.get(name, name)
        conversion = self._conversions[name]
        if conversion.converter is None:
            return self._tensors.read(conversion.sources[0][1])
        return self._floats.read(conversion, name)

    def read_expert(self, name: str, index: int) -> torch.Tensor:
        name = self._aliases.get(name, name)
        conversion = self._conversions[name]
        if conversion.converter is None:
            return self._tensors.read_expert(conversion.sources[0][1], index)
        return self._floats.read_expert(conversion, name, index)

    def prequantized(self, name: str) -> PrequantizedWeight | None:
        """The weight with the checkpoint's codes and scales; None if it holds floats, or if codes cannot be kept."""
        return kept_or_none(self._kept, self._aliases.get(name, name))

    def notes(self) -> list[str]:
        """For the user, which merged weights do not keep their codes. Reads headers only."""
        return notes_of(self._kept, self._conversions)

    def _kept(self, name: str) -> PrequantizedWeight | None:
        conversion = self._conversions[name]
        if conversion.converter is None:
            return self._tensors.prequantized(conversion.sources[0][1])
        return self._codes.weight(conversion, name, self._shapes[name])

    def _map_names(self, key_mapping: dict[str, str]) -> tuple[dict[str, Conversion], tuple[str, ...]]:
        """The conversion of each tensor of the model, by name, and the names of unused tensors."""
        transforms = get_model_conversion_mapping(self._model, key_mapping or None)
        renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
        by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
        ignored = self._model._keys_to_ignore_on_load_unexpected or ()
        concerned = self._concerned()
        conversions: dict[str, Conversion] = {}
        unused = []
        # transformers' natural order (2 before 10): experts are merged in the order in which they are listed.
        for name_in_checkpoint in sorted(self._tensors.keys(), key=dot_natural_key):
            target, pattern = self._rename(name_in_checkpoint, renamings, converters)
            if target not in self._shapes:
                obsolete = _OBSOLETE.search(name_in_checkpoint) or any(re.search(entry, target) for entry in ignored)
                if not obsolete and self._owner(target) in concerned:
                    unused.append(name_in_checkpoint)
            elif pattern is None:
                conversions[target] = Conversion(target, [(name_in_checkpoint, name_in_checkpoint)], None, (target,))
            else:
                converter = by_pattern[pattern]
                conversion = conversions.setdefault(
                    target, Conversion(target, [], converter, _targets(target, converter))
                )
                conversion.sources.append((pattern, name_in_checkpoint))
        for conversion in list(conversions.values()):
            conversions.update(dict.fromkeys(conversion.targets, conversion))
        needed = {target: conversion for target, conversion in conversions.items() if target in self._part}
        return needed, tuple(unused)

    def _concerned(self) -> set[str]:
        """Names of the modules that hold needed tensors, themselves or in modules inside them."""
        return {"", *(name[:end] for name in self._part for end, char in enumerate(name) if char == ".")}

    def _owner(self, tensor: str) -> str:
        """Name of the innermost module that a tensor of this name would be in."""
        name = tensor.rpartition(".")[0]
        while name and name not in self._modules:
            name = name.rpartition(".")[0]
        return name

    def _rename(
        self, name: str, renamings: list[WeightRenaming], converters: list[WeightConverter]
    ) -> tuple[str, str | None]:
        prefix = self._model.base_model_prefix
        target, pattern = rename_source_key(name, renamings, converters, prefix, self._shapes)
        if target not in self._shapes and name in self._shapes:
            return name, None
        return target, pattern

    def _tie(self, may_tie: Mapping[str, str]) -> dict[str, str]:
        """Drop the conversions of tied weights; returns tied name -> the name that keeps its conversion."""
        aliases = {}
        for target, source in self._model.all_tied_weights_keys.items():
            if source not in self._conversions and target in self._conversions:
                self._conversions[source] = self._conversions[target]
            if source in self._conversions and target in self._conversions and not self._same(source, target):
                self.untied = True
            elif source in self._conversions:
                self._conversions.pop(target, None)
                aliases[target] = source
        for target, source in may_tie.items():
            if target not in self._conversions and source in self._conversions:
                aliases[target] = source
                self.tied = True
        return aliases

    def _same(self, source: str, target: str) -> bool:
        first, second = self._conversions[source], self._conversions[target]
        if first is second:
            return True
        return torch.equal(self._tensors.read(first.sources[0][1]), self._tensors.read(second.sources[0][1]))

    def _check(self) -> None:
        may_miss = self._model._keys_to_ignore_on_load_missing or ()
        missing = [
            name
            for name in self._shapes
            if name in self._part and name not in self and not any(re.search(entry, name) for entry in may_miss)
        ]
        if missing:
            hint = f"; it holds {_some(self.unused)}, which the model has no place for" if self.unused else ""
            raise SourceError(f"{self._where} lacks {_some(missing)} that {type(self._model).__name__} needs{hint}")
        for name, conversion in self._conversions.items():
            if conversion.converter is None:
                found, wanted = tuple(self._tensors.shape(conversion.sources[0][1])), self._shapes[name]
                if found != wanted:
                    raise SourceError(
                        f"{self._where} holds {conversion.sources[0][1]} of shape {list(found)}, its configuration "
                        f"asks for {list(wanted)}: the two do not belong together"
                    )
            else:
                self._check_merge(name, conversion, conversion.converter)

    def _check_merge(self, name: str, conversion: Conversion, converter: WeightConverter) -> None:
        counts = {pattern: 0 for pattern in converter.source_patterns}
        for pattern, _ in conversion.sources:
            counts[pattern] += 1
        if len(converter.target_patterns) > 1:
            return  # tensors may be shared out to several targets; `_convert` checks the shapes
        if len(conversion.sources) == 1 and tuple(self._tensors.shape(conversion.sources[0][1])) == self._shapes[name]:
            return  # it is not quantized: the other patterns are those of its scales
        wanted = self._shapes[name][0] if conversion.merges_experts else 1
        for pattern, count in counts.items():
            if count != wanted:
                raise SourceError(
                    f"{self._where} holds {count} tensors {pattern} for {name}, the model needs {wanted}: "
                    "download it again"
                )
        self._check_experts(name, conversion)

    def _check_experts(self, name: str, conversion: Conversion) -> None:
        """Experts are alike, and stacks have as many as the model."""
        by_expert = conversion.by_expert(self._shapes[name])
        first: dict[str, tuple[int, ...]] = {}
        for pattern, source in conversion.sources:
            found = tuple(self._tensors.shape(source))
            if conversion.merges_experts and found != first.setdefault(pattern, found):
                raise SourceError(
                    f"{self._where} holds {source} of shape {list(found)}, and other experts of "
                    f"{list(first[pattern])}: download it again"
                )
            if by_expert and not conversion.merges_experts and found[:1] != self._shapes[name][:1]:
                raise SourceError(
                    f"{self._where} holds {source} of shape {list(found)}, its configuration asks for "
                    f"{self._shapes[name][0]} experts: the two do not belong together"
                )


def _targets(first: str, converter: WeightConverter) -> tuple[str, ...]:
    pattern = converter.target_patterns[0]
    return tuple(first.replace(pattern, other, 1) for other in converter.target_patterns)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMES_IN_MESSAGE} more" if len(listed) > _NAMES_IN_MESSAGE else ""
    return ", ".join(listed[:_NAMES_IN_MESSAGE]) + more
