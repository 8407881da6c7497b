"""The policy: a copy of the model, the weights of it that train, and dropout off unless asked."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trueup.errors import UserError
from trueup.models import LanguageModel, architecture
from trueup.models.multi_head import MultiHead, merge_heads
from trueup.models.shared_prefix import PackedScorer
from trueup.training.config import TrainingConfig


class Policy:
    """The model that training changes.

    Fields: model, the transformers or peft module; heads, where it gets several instead of its
            own; scorer, the module that DDP wraps; trainable, the weights that train by name.
    """

    def __init__(
        self,
        lm: LanguageModel,
        config: TrainingConfig,
        *,
        device: torch.device,
        in_place: bool = False,
        heads: MultiHead | None = None,
    ) -> None:
        self.source = lm
        self.model = _prepared(lm, config, in_place=in_place).to(device)
        self.heads = None if heads is None else heads.to(device)
        if heads is not None:
            _freeze_own_head(self.model)
        self.trainable: dict[str, nn.Parameter] = {
            name: weight for name, weight in self.model.named_parameters() if weight.requires_grad
        }
        if heads is not None:
            self.trainable |= {f"heads.{name}": weight for name, weight in heads.named_parameters()}
        self.scorer = PackedScorer(self.model, lm.layout, self.heads)
        self._dropout = config.dropout
        self._recomputes = config.gradient_checkpointing
        if self._recomputes:
            _checkpointing(self.model, "enable")({"use_reentrant": False})

    @property
    def has_adapter(self) -> bool:
        """Whether only an adapter trains."""
        return hasattr(self.model, "peft_config")

    def ready_to_train(self) -> None:
        """Training mode, where it means gradient checkpoints and the dropout that was asked for.

        Dropout of the model itself stays off unless asked: it would make policy and reference
        differ before the first step.
        """
        self.model.train(self._dropout)
        for name, module in self.model.named_modules():
            if getattr(module, "gradient_checkpointing", False):
                module.training = True
            if "lora_dropout" in name:
                module.training = True

    def weights(self) -> dict[str, Tensor]:
        """The trained weights on the CPU, copied."""
        return {
            name: weight.detach().to("cpu", copy=True).contiguous()
            for name, weight in self.trainable.items()
        }

    @torch.no_grad()
    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put weights that `weights` gave back into place."""
        for name, weight in self.trainable.items():
            weight.copy_(weights[name])

    def finished(self, name: str) -> LanguageModel:
        """The policy as a language model for use; several heads are mixed in equal parts."""
        if self._recomputes:
            _checkpointing(self.model, "disable")()
        lm = LanguageModel(self.model, self.source.tokenizer, name=name)
        if self.heads is None:
            return lm
        return merge_heads(lm, self.heads, dict.fromkeys(self.heads.names, 1.0), name=name)


def _prepared(lm: LanguageModel, config: TrainingConfig, *, in_place: bool) -> Any:
    """The module to train, with `requires_grad` on what trains."""
    if config.lora_r:
        if hasattr(lm.model, "peft_config"):
            raise UserError(
                f"{lm.name}: already has an adapter; set lora_r=0 to train it on, or merge it first"
            )
        return _with_lora(lm, lm.model if in_place else _sharing_weights(lm.model), config)
    model = lm.model if in_place else copy.deepcopy(lm.model)
    if hasattr(model, "peft_config"):
        for name in model.active_adapters:
            model.peft_config[name].inference_mode = False
            model.set_adapter(name)
    else:
        model.requires_grad_(True)
    _widen(model)
    return model


def _sharing_weights(model: Any) -> Any:
    """The same modules anew around the same weights, so that an adapter leaves the model alone."""
    weights = [*model.parameters(), *model.buffers()]
    shared: dict[int, Any] = {id(weight): weight.detach() for weight in weights}
    for weight in model.parameters():
        shared[id(weight)] = nn.Parameter(weight.detach(), requires_grad=False)
    return copy.deepcopy(model, shared)


def _with_lora(lm: LanguageModel, model: Any, config: TrainingConfig) -> Any:
    """The model under a fresh LoRA adapter, whose start changes nothing."""
    import peft
    from transformers.pytorch_utils import Conv1D

    settings = peft.LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_targets) or "all-linear",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    if Path(lm.name).is_dir():
        settings.base_model_name_or_path = str(Path(lm.name).resolve())
    try:
        with warnings.catch_warnings():
            # peft still asks transformers by the old name
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            wrapped = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise UserError(f"lora_targets: {str(error).splitlines()[0]}") from error
    _widen(wrapped)
    return wrapped


def _freeze_own_head(model: Any) -> None:
    """No training of the head that others replace, unless it is the input embedding, too."""
    causal = architecture.causal_model(model)
    own, embeddings = causal.get_output_embeddings(), causal.get_input_embeddings()
    if own.weight is not embeddings.weight:
        own.requires_grad_(False)


def _checkpointing(model: Any, act: str) -> Any:
    """The method that switches gradient checkpoints; transformers renamed it within version 5."""
    inner = architecture.causal_model(model)
    new, old = f"activation_checkpointing_{act}", f"gradient_checkpointing_{act}"
    return getattr(inner, new if hasattr(inner, new) else old)


def _widen(model: Any) -> None:
    """Half-precision weights that train become float32: small steps would vanish in them."""
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype in (torch.bfloat16, torch.float16):
            weight.data = weight.data.float()
