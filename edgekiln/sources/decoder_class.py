"""A causal language model of the text decoder of a model with other inputs, where transformers has no class for it.

The class has a backbone `model` and a head `lm_head`, as the causal language models of transformers. Its logits are
those of the whole model: some scale or cap what the head gives. To compute them, the whole model's own forward runs,
with the backbone's output in place of what is before the head.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from edgekiln.errors import UnsupportedModelError

_Head = Callable[[torch.Tensor], torch.Tensor]


def decoder_class(
    owner: PreTrainedModel, backbone_name: str, backbone: PreTrainedModel, head_name: str
) -> type[PreTrainedModel]:
    """Make the class of the text decoder of `owner`.

    Args:
        owner: the model with the head, on the meta device.
        backbone_name: name of the backbone in `owner`.
        backbone: the text decoder without its head.
        head_name: name of the head in `owner`, a linear layer.

    Returns:
        A class whose instances are made from `backbone.config`, and that is called like
        `AutoModelForCausalLM.from_config(config)`.
    """
    head = cast(torch.nn.Linear, owner.get_submodule(head_name))
    backbone_class = type(backbone)
    embedding = next(name for name, module in backbone.named_modules() if module is backbone.get_input_embeddings())
    # The base class of a family knows what its modules support and how their buffers are computed.
    family: type[Any] = [base for base in backbone_class.__mro__ if issubclass(base, PreTrainedModel)][-2]

    class TextDecoder(family):
        config_class = type(backbone.config)
        base_model_prefix = "model"
        _tied_weights_keys = {"lm_head.weight": f"model.{embedding}.weight"}  # noqa: RUF012 - as in transformers

        # transformers looks for these in the source of a class's module, which is the backbone's here.
        _can_set_attn_implementation = backbone_class._can_set_attn_implementation
        _can_set_experts_implementation = backbone_class._can_set_experts_implementation

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            self.model = backbone_class(config)
            self.lm_head = torch.nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
            self.post_init()

        def forward(
            self,
            input_ids: torch.Tensor | None = None,
            attention_mask: torch.Tensor | None = None,
            position_ids: torch.Tensor | None = None,
            logits_to_keep: int = 0,
            **kwargs: Any,
        ) -> CausalLMOutputWithPast:
            """Logits float [B, logits_to_keep or S, V] of int64 [B, S] tokens."""
            outputs = self.model(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
            hidden = outputs.last_hidden_state[:, -logits_to_keep:]
            logits = _logits(owner, (backbone_name, head_name), hidden, self.lm_head)
            return CausalLMOutputWithPast(logits=cast(Any, logits))

    TextDecoder.__name__ = TextDecoder.__qualname__ = f"{backbone_class.__name__}WithHead"
    return TextDecoder


def same_logits(a: PreTrainedModel, a_names: tuple[str, str], b: PreTrainedModel, b_names: tuple[str, str]) -> bool:
    """Whether two models on the meta device do the same to what their heads give.

    Args:
        a, b: the models.
        a_names, b_names: names of the backbone and of the head in each.

    Raises:
        UnsupportedModelError: one cannot be called without what is before its head.
    """
    size = a.config.get_text_config(decoder=True).vocab_size
    given = torch.linspace(-100, 100, size, device="cpu").reshape(1, 1, size)
    hidden = torch.zeros(1, 1, 1, device="cpu")
    try:
        made = [_logits(model, names, hidden, lambda _: given) for model, names in ((a, a_names), (b, b_names))]
    except Exception as error:
        # The forward of any model class runs here, which fails in ways of its own.
        raise UnsupportedModelError(
            f"{b.config.model_type} computes its logits in a way that edgekiln does not support yet"
        ) from error
    return torch.equal(*made)


def _logits(model: PreTrainedModel, names: tuple[str, str], hidden: torch.Tensor, head: _Head) -> torch.Tensor:
    """The logits of `model` for the backbone's output `hidden`, float [B, S, K], with another head."""
    before_head = _BeforeHead(model, names, hidden, head)
    zeros = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    made = type(model).forward(
        cast(Any, before_head), inputs_embeds=hidden, attention_mask=zeros + 1, position_ids=zeros, use_cache=False
    )
    logits: torch.Tensor = made.logits
    return logits


class _BeforeHead:
    """Stands for a model whose modules before the head have an output that is known."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, str], hidden: torch.Tensor, head: _Head) -> None:
        self._model = model
        backbone, head_name = names
        outputs = _Outputs(hidden)
        setattr(self, backbone.split(".")[0], lambda *_, **__: outputs)
        setattr(self, head_name, head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Outputs:
    """The output of a backbone; attributes that are not about text are None."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> torch.Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, _name: str) -> None:
        return None
