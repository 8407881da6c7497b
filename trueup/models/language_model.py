"""A causal language model with its tokenizer: scoring, sampling, decoding, hidden states."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trueup.errors import UserError
from trueup.models import architecture
from trueup.models.decoding_state import DecodingState
from trueup.models.encoding import Completion, Encoder, Prompt
from trueup.models.fingerprint import Fingerprint
from trueup.models.prefix_tree import Group
from trueup.models.sampling import Sample, Sampling, sample_grid
from trueup.models.shared_prefix import Layout, PackedScorer, find_layout, score_groups
from trueup.models.work import Work

TOKEN_BUDGET = {"cpu": 4096}  # tokens in one forward pass; a GPU takes more
GPU_TOKEN_BUDGET = 32768
MAX_ROWS = 256  # rows that decode together


@dataclass(frozen=True)
class Scores:
    """Log-probabilities in nats of completions given their prompts.

    Fields: token_logps[i][k] is an array [T] for completion k of prompt i; joint_differs counts
            the completions whose tokens would differ if prompt and completion were tokenised
            together.
    """

    token_logps: list[list[np.ndarray]]
    joint_differs: int = 0

    @property
    def logps(self) -> list[list[float]]:
        """Sums over each completion's tokens."""
        return [[float(part.sum()) for part in several] for several in self.token_logps]

    @property
    def lengths(self) -> list[list[int]]:
        """Tokens of each completion."""
        return [[len(part) for part in several] for several in self.token_logps]


class LanguageModel:
    """The white-box policy or reference of every method; made by `trueup.load`.

    Fields: model, the transformers or peft module; tokenizer; name, as it was loaded; work, what
            was computed so far.
    """

    is_masked = False

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.work = Work()
        self.encoder = Encoder(tokenizer)
        self._fingerprint = Fingerprint(model, tokenizer)
        self._layout: Layout | None = None

    def __repr__(self) -> str:
        kind = type(architecture.causal_model(self.model)).__name__
        return f"LanguageModel({self.name!r}, {kind}, {self.device.type})"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def max_length(self) -> int:
        """Tokens that one sequence may have."""
        return architecture.context_length(self.model, self.tokenizer)

    @property
    def pad_id(self) -> int:
        """A token id for positions that hold none; its choice changes nothing."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    @property
    def token_budget(self) -> int:
        """Tokens that go through the model at once when nothing else is said."""
        return TOKEN_BUDGET.get(self.device.type, GPU_TOKEN_BUDGET)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights, adapter, configuration, tokenizer and chat template."""
        return self._fingerprint.value()

    @property
    def layout(self) -> Layout:
        """Which shortcuts this architecture allows, tried once on a tiny example."""
        if self._layout is None:
            self._layout = find_layout(self.model, vocab_size=len(self.tokenizer))
        return self._layout

    def encode(
        self, prompt: Prompt, completions: Sequence[Completion], *, add_eos: bool = False
    ) -> Group:
        """One prompt and its completions as token ids."""
        return self.encoder.groups([prompt], [completions], add_eos=add_eos)[0]

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[Completion]],
        *,
        add_eos: bool = False,
    ) -> Scores:
        """Log-probabilities of several completions of each prompt, each prompt read once.

        Prompts that begin alike share what they have in common, too.

        Raises: UserError where a prompt with a completion is longer than the context.
        """
        before = self.encoder.joint_differs
        groups = self.encoder.groups(prompts, completions, add_eos=add_eos)
        return Scores(self.score_groups(groups), self.encoder.joint_differs - before)

    def score_groups(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        """`score` on token ids: per group and completion the token log-probabilities [T]."""
        self._check_lengths(groups)
        results: list[list[np.ndarray]] = [[] for _ in groups]
        self.model.eval()
        scored = score_groups(
            PackedScorer(self.model, self.layout),
            groups,
            token_budget=self.token_budget,
            pad_id=self.pad_id,
            work=self.work,
        )
        for index, parts in scored:
            results[index] = [part.double().numpy() for part in parts]
        return results

    def text_token_logps(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Log-probabilities of every token of whole texts, [T] each.

        The first token is predicted from the tokenizer's opening token, else BOS or EOS; a
        tokenizer that has none leaves the first token unscored.
        """
        opening = self.encoder.context()
        groups = []
        for place, ids in enumerate(self.encoder.tokens(texts), start=1):
            if len(opening) + len(ids) < 2:
                raise UserError(f"text {place} is too short to score, got {texts[place - 1]!r}")
            groups.append(Group(opening, [ids]) if opening else Group(ids[:1], [ids[1:]]))
        return [parts[0] for parts in self.score_groups(groups)]

    def text_logps(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> np.ndarray:
        """Log-likelihoods of whole texts in nats, [N], or [N, K] for tuples of K texts."""
        if all(isinstance(text, str) for text in texts):
            return np.array([part.sum() for part in self.text_token_logps([*map(str, texts)])])
        flat = [text for several in texts for text in several]
        return self.text_logps(flat).reshape(len(texts), -1)

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[list[Sample]]:
        """Sample every prompt `n` times after one prefill; seeds as `sampling` explains.

        Raises: UserError where a prompt leaves no room for `max_new_tokens` in the context.
        """
        settings = Sampling(
            n=n,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop=tuple(stop),
            seed=seed,
        )
        return [several for [several] in self.sample_grid(prompts, [settings])]

    def sample_grid(
        self, prompts: Sequence[Prompt], grid: Sequence[Sampling]
    ) -> list[list[list[Sample]]]:
        """`sample` at several settings, [P][C][n]: every prompt is read once for all of them.

        Raises: UserError where a prompt leaves no room in the context, or settings differ in
                max_new_tokens or stop.
        """
        ids = [self.encoder.prompt(prompt) for prompt in prompts]
        most = max((one.max_new_tokens for one in grid), default=0)
        for place, prompt_ids in enumerate(ids, start=1):
            if len(prompt_ids) + most > self.max_length:
                raise UserError(
                    f"prompt {place} has {len(prompt_ids)} tokens and max_new_tokens is "
                    f"{most}, but the model reads {self.max_length}; shorten one of them"
                )
        self.model.eval()
        return sample_grid(self.start_ids, ids, self.tokenizer, grid, rows=MAX_ROWS)

    def start(self, prompts: Sequence[Prompt]) -> DecodingState:
        """Read the prompts once and stand ready to decode, a row each."""
        return self.start_ids([self.encoder.prompt(prompt) for prompt in prompts])

    def start_ids(self, prompts: Sequence[Sequence[int]]) -> DecodingState:
        """`start` on token ids."""
        self.model.eval()
        return DecodingState(self.model, prompts, pad_id=self.pad_id, work=self.work)

    @torch.no_grad()
    def hidden_states(
        self, texts: Sequence[str], layers: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Hidden states of every token of the texts, one [L, T, D] each in float32.

        Layer 0 is the embedding, the last one is what the head reads; `layers` picks some, by
        default all. The opening token, where there is one, is among the T.
        """
        self.model.eval()
        opening = self.encoder.opening
        result = []
        for ids in self.encoder.tokens(texts):
            row = torch.tensor([[*opening, *ids]], device=self.device)
            output = architecture.run_trunk(
                self.model, {"input_ids": row, "output_hidden_states": True, "use_cache": False}
            )
            self.work.add(trunk_tokens=row.numel())
            states = torch.stack([state[0].float().cpu() for state in output.hidden_states])
            result.append(states if layers is None else states[list(layers)])
        return result

    def save(self, folder: Path | str) -> None:
        """Write weights (safetensors), configuration, tokenizer; of a peft model its adapter."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _check_lengths(self, groups: Sequence[Group]) -> None:
        """Raise UserError where a prompt with one of its completions does not fit the context."""
        for place, group in enumerate(groups, start=1):
            longest = len(group.prompt) + max(map(len, group.completions))
            if longest > self.max_length:
                raise UserError(
                    f"prompt {place} with its completion has {longest} tokens, but the model reads "
                    f"{self.max_length}; shorten it"
                )
