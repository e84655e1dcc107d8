"""Recipes: the scheme of each layer and the method that finds its codes.

A recipe file is YAML:

    method: gptq                # how codes are found, see `edgekiln engine --help`; without it, rtn
    smoothquant: 0.5            # SmoothQuant's strength, 0 to 1; left out, SmoothQuant is not applied
    default: {bits: 4, group_size: 32, symmetric: false}
    overrides:                  # later ones win
      - match: "*.mlp.*"        # pattern of module names, with * and ? as in file names
        bits: 8
      - match: "*.layers.0.*"
        skip: true              # stays in floating point

Importing this module is cheap: the command line checks recipes before it imports torch.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgekiln.calib.formats.scheme import EMBEDDING_GROUP, GROUP_SIZES, Activation, Scheme, dividing_group
from edgekiln.calib.limits import Limits
from edgekiln.calib.quantizers.base import METHODS, active_quantizers
from edgekiln.errors import RequestError

Kind = Literal["linear", "head", "embedding"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerSpec(_Strict):
    """How a linear layer is quantized.

    Attributes:
        bits: 4 or 8.
        group_size: consecutive input channels that share a scale, 32, 64 or 128; None is one scale per output channel.
        symmetric: without zero points.
        activation: quantization of the layer's input at run time.
    """

    bits: Literal[4, 8]
    group_size: int | None = None
    symmetric: bool = True
    activation: Activation = "none"

    @model_validator(mode="after")
    def _check(self) -> "LayerSpec":
        if self.group_size is None:
            if self.bits != 8 or not self.symmetric or self.activation == "none":
                raise ValueError(
                    "one scale per channel (no group_size) takes bits: 8, symmetric: true and activation: "
                    "int8-per-token or int8-static"
                )
        elif self.group_size not in GROUP_SIZES:
            raise ValueError(f"group_size must be 32, 64 or 128, got {self.group_size}")
        elif self.activation != "none":
            raise ValueError(f"groups take activation: none, got {self.activation}")
        return self


class Override(_Strict):
    """Changes to the default for modules whose names match; None leaves a field as it is."""

    match: str = Field(min_length=1)
    skip: bool = False
    bits: Literal[4, 8] | None = None
    group_size: int | Literal["channel"] | None = None
    symmetric: bool | None = None
    activation: Activation | None = None

    def apply(self, spec: LayerSpec) -> LayerSpec:
        """`spec` with the fields of this override.

        A change between groups and one scale per channel also sets the fields that belong to it, unless the override
        names them.

        Raises:
            ValidationError: the fields contradict each other.
        """
        changes: dict[str, Any] = {
            name: value for name in ("bits", "symmetric", "activation") if (value := getattr(self, name)) is not None
        }
        if self.group_size == "channel":
            changes = {"bits": 8, "symmetric": True, "activation": "int8-per-token", **changes, "group_size": None}
        elif self.group_size is not None:
            changes = {"activation": "none", **changes, "group_size": self.group_size}
        return LayerSpec.model_validate({**spec.model_dump(), **changes})


class Recipe(_Strict):
    """A recipe.

    Attributes:
        method: the quantizer that finds the codes of weights, one of `edgekiln.calib.quantizers.base.METHODS`.
        smoothquant: strength of SmoothQuant, 0 to 1; None does not apply it.
        default: of every linear layer; None leaves the layers that no override matches in floating point.
        overrides: applied in order, so that later ones win.
    """

    method: str = "rtn"
    smoothquant: float | None = Field(default=None, ge=0, le=1)
    default: LayerSpec | None
    overrides: tuple[Override, ...] = ()

    @field_validator("method")
    @classmethod
    def _check_method(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"must be one of {', '.join(METHODS)}, got {method}")
        return method

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        for override in self.overrides:
            if not override.skip:
                self._apply(self.default, override)
        return self

    @staticmethod
    def _apply(spec: LayerSpec | None, override: Override) -> LayerSpec:
        if spec is not None:
            return override.apply(spec)
        fields = override.model_dump(exclude={"match", "skip"}, exclude_none=True)
        if fields.get("group_size") == "channel":
            fields["group_size"] = None
        return LayerSpec.model_validate(fields)

    @property
    def calibrates(self) -> bool:
        """Whether a quantizer has to run before the build."""
        return bool(active_quantizers(self, Limits()))

    @property
    def has_static_activations(self) -> bool:
        """Whether the default or an override has static activation scales; the override may match no layer."""
        return "int8-static" in (self.default and self.default.activation, *(o.activation for o in self.overrides))

    def spec(self, name: str) -> LayerSpec | None:
        """How the linear layer `name` is quantized; None if it stays in floating point."""
        spec = self.default
        for override in self.overrides:
            if fnmatchcase(name, override.match):
                spec = None if override.skip else self._apply(spec, override)
        return spec

    def scheme(self, name: str, in_features: int, kind: Kind = "linear") -> Scheme | None:
        """The scheme of one weight with `in_features` columns; None if it stays in floating point.

        A group size that does not divide `in_features` falls back to the next smaller one that does. The embedding and
        the head, tied or not, get 8 bits with zero points in groups of 32, unless an override skips them.

        Raises:
            UnsupportedModelError: no group size divides `in_features`.
        """
        if kind != "linear":
            matching = [override for override in self.overrides if fnmatchcase(name, override.match)]
            skipped = matching[-1].skip if matching else self.default is None
            group_size = None if skipped else dividing_group(EMBEDDING_GROUP, in_features)
            return None if skipped else Scheme(8, group_size, symmetric=False, activation="none")
        spec = self.spec(name)
        if spec is None:
            return None
        group_size = None if spec.group_size is None else dividing_group(spec.group_size, in_features)
        return Scheme(spec.bits, group_size, spec.symmetric, spec.activation)

    def check_names(self, names: Iterable[str]) -> None:
        """Check that each override matches one of these module names.

        Raises:
            RequestError: a pattern matches none of them.
        """
        names = list(names)
        for override in self.overrides:
            if not any(fnmatchcase(name, override.match) for name in names):
                raise RequestError(
                    f"the recipe's pattern {override.match!r} matches no layer of the model: "
                    f"they are named like {', '.join(names[:1] + names[-1:])}"
                )


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        RequestError: the file is missing, is not YAML or is not a recipe; the message names the field.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text (byte {error.start}): convert it first") from error
    except OSError as error:
        raise RequestError(f"cannot read the recipe {path}: {error.strerror}") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise RequestError(f"{path} is not a recipe: it must begin with keys such as default and overrides")
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{path} is not a recipe: {where + ': ' if where else ''}{message}") from error
