"""Decoders as vLLM's logits processors: what needs no second pass, inside a vLLM engine.

An operator writes a class in a module of their own, and names it to the engine:

    # steering.py
    from trueup.decoding.vllm_processors import ArgsLogitsProcessor

    class Kind(ArgsLogitsProcessor):
        method = ARGS(weight=2.0, top_k=10)
        rewards = {"clean": "no-regex:(?i)damn"}

    vllm serve MODEL --logits-processors steering:Kind

The classes fit both of vLLM's interfaces, as of 0.33.0: that of the V1 model runner, which
VLLM_USE_V2_MODEL_RUNNER=0 asks for (`vllm.v1.sample`), and that of the V2 one, the default
(`vllm.v1.worker.gpu.sample`), which refuses processors of the other.

What the interface allows: it shows logits and token ids, of a whole batch. So ARGS works, with any
reward on the text so far, constraints among them, and so does a contrast whose second branch does
not read the text: a table of its log-probabilities. What it does not allow: a second forward pass,
or another cache. So a contrast with a prompt or an amateur that reads, a lookahead (deal,
transfer-q), beams, and rollback are not to be had in here; `trueup serve MODEL` has them.

Cost:  a reward runs on the host, so each step waits for the tokens and for the reward: top_k texts
       for every row.
Edges: an error in a reward ends the engine, as any error of a processor does.
"""

import functools
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor

from trueup.data.messages import Prompt
from trueup.decoding.args import ARGS
from trueup.decoding.contrast import Contrast, contrast_scores
from trueup.decoding.logits_processors import args_scores
from trueup.decoding.rewards import Rewards, opened_reward
from trueup.errors import UserError
from trueup.models.language_model import LanguageModel
from trueup.models.reward import Reward
from trueup.models.tensors import read_tensors, save_tensors

INTERFACES = (
    "vllm.v1.sample.logits_processor",
    "vllm.v1.worker.gpu.sample.logits_processor",
)
TABLE = "logprobs"  # the tensor's name in a table's file


@dataclass(frozen=True)
class Steered:
    """What one request asks for.

    Fields: strength stands for the method's own; prompt and output are token ids, the output as
            it is now; text is the prompt's.
    """

    strength: float
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()
    text: str = ""


class Processor:
    """What both processors share: which row is which request, under either of vLLM's runners.

    A request's `extra_args` (`vllm_xargs` over HTTP) may hold its own strength under the name
    `setting`; 0 leaves the request alone.
    """

    setting: ClassVar[str]

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        # V1 gives (device, is_pin_memory) and tells of requests by update_state; V2 gives its
        # buffers, and tells by add_request.
        self._buffers = rest[0] if len(rest) == 1 else None
        self._config = vllm_config
        self._requests: dict[int, Steered] = {}  # by row (V1) or slot (V2)
        self.prepare()

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError, which refuses the request, where its strength is no number from 0."""
        value = (getattr(sampling_params, "extra_args", None) or {}).get(cls.setting, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise ValueError(f"{cls.setting} must be a number of at least 0, got {value!r}")

    def is_argmax_invariant(self) -> bool:
        """False: the likeliest token may become another one."""
        return False

    def prepare(self) -> None:
        """Make ready what all requests need, once."""

    def strength(self) -> float:
        """The strength of a request that names none."""
        raise NotImplementedError

    def steered(self, logits: Tensor, requests: Sequence[Steered]) -> Tensor:
        """The logits that are sampled from instead, one row per request, [R, V] in and out."""
        raise NotImplementedError

    def prompt_text(self, ids: Sequence[int]) -> str:
        """A prompt as rewards read it."""
        return ""

    def update_state(self, batch_update: Any) -> None:
        """V1: follow the rows that requests have in the batch, in the order that vLLM asks for."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._requests.pop(row, None)
        for row, params, prompt, output in batch_update.added:
            self._requests.pop(row, None)
            self._admit(row, params, prompt or (), output)
        for one, other, way in batch_update.moved:
            moved, replaced = self._requests.pop(one, None), self._requests.pop(other, None)
            if moved is not None:
                self._requests[other] = moved
            if replaced is not None and way.name == "SWAP":
                self._requests[one] = replaced

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request takes a slot; whether it is steered. Its tokens are read at its first step.

        What was in the slot before is forgotten.
        """
        self._requests.pop(req_idx, None)
        self._admit(req_idx, sampling_params, (), ())
        return req_idx in self._requests

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Change the rows of steered requests in place, [R, V]; ctx is what V2 says of them."""
        found = self._rows_v1() if ctx is None else self._rows_v2(ctx)
        if found:
            rows = list(found)
            logits[rows] = self.steered(logits[rows], [found[row] for row in rows])
        return logits

    def _admit(self, place: int, params: Any, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Note a request, where it is to be steered."""
        extra = getattr(params, "extra_args", None) or {}
        strength = float(extra.get(self.setting, self.strength()))
        if strength > 0:
            text = self.prompt_text(prompt) if prompt else ""
            self._requests[place] = Steered(strength, prompt, output, text)

    def _rows_v1(self) -> dict[int, Steered]:
        """The steered rows; vLLM appends to their outputs itself."""
        return dict(sorted(self._requests.items()))

    def _rows_v2(self, ctx: Any) -> dict[int, Steered]:
        """The steered rows; a request has one row, or one for each token drafted for it."""
        buffers = self._buffers
        assert buffers is not None
        found = {}
        fed: list[int] | None = None
        positions = ctx.pos.tolist()
        for row, slot in enumerate(ctx.expanded_idx_mapping.tolist()):
            request = self._requests.get(slot)
            if request is None:
                continue
            start, length = int(buffers.prompt_len.np[slot]), positions[row] + 1
            if not request.prompt:
                ids = buffers.all_token_ids.gpu[slot, :start].tolist()
                request = replace(request, prompt=ids, text=self.prompt_text(ids))
                self._requests[slot] = request
            committed = min(length, int(buffers.total_len.gpu[slot]))
            output = buffers.all_token_ids.gpu[slot, start:committed].tolist()
            if committed < length:  # drafts are known by what the rows before this one were fed
                fed = ctx.input_ids.tolist() if fed is None else fed
                output += fed[row - (length - committed) + 1 : row + 1]
            found[row] = replace(request, output=output)
        return found


class Args(Processor):
    """`ARGS` in a vLLM engine: of the likeliest tokens, by likelihood and reward of their text.

    Fields: method gives weight, top_k and the rewards' weights; its `sample` and temperature are
            the request's own; rewards by name, as `ArgsProcessor` has them. `args_weight` is the
            strength.
    """

    method: ClassVar[ARGS] = ARGS()
    rewards: ClassVar[Mapping[str, Reward | str]] = {}
    setting: ClassVar[str] = "args_weight"

    def prepare(self) -> None:
        """Open the rewards and read the tokenizer."""
        self._rewards = {name: opened_reward(reward) for name, reward in self.rewards.items()}
        Rewards(self._rewards, self.method.weights, [])
        model = self._config.model_config
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            model.tokenizer, revision=getattr(model, "tokenizer_revision", None)
        )

    def strength(self) -> float:
        """The method's weight."""
        return self.method.weight

    def prompt_text(self, ids: Sequence[int]) -> str:
        """The prompt's text without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def steered(self, logits: Tensor, requests: Sequence[Steered]) -> Tensor:
        """Log pi + weight * reward of the top_k likeliest tokens, -inf elsewhere."""
        texts = [request.text for request in requests]
        return args_scores(
            logits,
            [request.output for request in requests],
            tokenizer=self._tokenizer,
            top_k=self.method.top_k,
            weights=[request.strength for request in requests],
            totals=Rewards(self._rewards, self.method.weights, texts).totals,
        )


class ContrastTable(Processor):
    """`Contrast` in a vLLM engine against a table: a second branch that does not read the text.

    Fields: method gives beta, form and the amateur's temperature, and alpha, for which
            `contrast_alpha` is the strength; table is a file that `save_table` wrote.
    """

    method: ClassVar[Contrast] = Contrast()
    table: ClassVar[str | Path] = ""
    setting: ClassVar[str] = "contrast_alpha"

    def prepare(self) -> None:
        """Read the table."""
        if not self.table:
            raise UserError(f"{type(self).__name__}: table is missing; set it to a table's file")
        tensors = read_tensors(Path(self.table))[0] if Path(self.table).is_file() else {}
        if TABLE not in tensors:
            raise UserError(f"{self.table}: is no table of a contrast; write one with save_table")
        self._table = tensors[TABLE]

    def strength(self) -> float:
        """The method's alpha."""
        return self.method.alpha

    def steered(self, logits: Tensor, requests: Sequence[Steered]) -> Tensor:
        """The contrasted scores."""
        self._table = self._table.to(logits.device)
        logps = torch.log_softmax(logits.float(), dim=-1)
        others = self._table.expand(len(requests), -1)
        alphas = logps.new_tensor([[request.strength] for request in requests])
        return contrast_scores(
            logps,
            others,
            alpha=alphas,
            beta=self.method.beta,
            form=self.method.form,
            temperature=self.method.amateur_temperature,
        ).to(logits.dtype)


def save_table(lm: LanguageModel, prompts: Sequence[Prompt], path: Path | str) -> None:
    """Write what a model says next after the prompts, on average: log mean p, [V]."""
    means = lm.start(prompts).logprobs.double().logsumexp(dim=0) - math.log(len(prompts))
    save_tensors(Path(path), {TABLE: means.float().cpu()})


_STEERING: Mapping[str, type[Processor]] = {
    "ArgsLogitsProcessor": Args,
    "ContrastTableLogitsProcessor": ContrastTable,
}


def __getattr__(name: str) -> Any:
    """The processors by their names, made when they are asked for: they need vLLM's classes."""
    if name not in _STEERING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _joined(name)


@functools.cache
def _joined(name: str) -> type[Any]:
    """The processor as a subclass of the interfaces that this vLLM has."""
    steering = _STEERING[name]
    bases = (steering, *_interfaces())
    return type(name, bases, {"__doc__": steering.__doc__, "__module__": __name__})


def _interfaces() -> list[type[Any]]:
    """The base classes of vLLM's two runners, as far as this vLLM has them.

    Raises: UserError where it has none, or there is no vLLM.
    """
    found: list[type[Any]] = []
    for module in INTERFACES:
        try:
            found.append(importlib.import_module(module).LogitsProcessor)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("vllm"):
                raise
    if not found:
        raise UserError(
            "vLLM's logits processors need vllm with the module vllm.v1; install it with "
            "pip install 'trueup[vllm]'"
        )
    return found
