"""Step rewards: a small head on a language model's states says how well a prefix will end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence

from trueup.errors import UserError, check_at_least, check_positive
from trueup.files import content_hash
from trueup.models import architecture
from trueup.models.encoding import Completion, Prompt
from trueup.models.language_model import LanguageModel
from trueup.models.shared_prefix import buckets
from trueup.models.tensors import read_tensors, save_tensors

FILE = "step_rewards.safetensors"


@dataclass(frozen=True, kw_only=True)
class StepRewardTraining:
    """How the head is fitted: plain AdamW; the paper's values, for a trunk of billions of weights.

    Fields: lr and epochs want to be larger where examples are few; seed orders the examples.
    """

    lr: float = 5e-5
    epochs: int = 3
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(lr=self.lr)
        check_at_least(1, epochs=self.epochs, batch_size=self.batch_size)


class StepRewardModel:
    """A process reward model: Linear(d, d), ReLU, Linear(d, 1) on the states that end the steps.

    A completion's steps end with `separator`; the last one is closed where it is not. Every step
    is tokenised by itself, so the state that ends it is exact and knows nothing of later steps.
    The language model stays frozen. Called with prompts and completions it gives the value of
    each completion's last step, [N], higher for better: a reward for guided decoding.

    Fields: lm reads the text and may have another tokenizer than the policy; seed starts the head.
    Raises: UserError where a completion has no step, or its last separator is cut off by the
            context's end.
    Source: Shen et al. 2025, arXiv 2510.01167, section on process rewards; the output is unbounded.
            A frozen trunk and steps closed for whole answers, too, are our choices.
    """

    def __init__(self, lm: LanguageModel, *, separator: str = "\n\n", seed: int = 0) -> None:
        if not separator:
            raise UserError("separator must be some text, got ''")
        self.lm = lm
        self.separator = separator
        size = architecture.causal_model(lm.model).get_input_embeddings().embedding_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1))
        self.head.to(lm.device)

    @torch.no_grad()
    def values(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[np.ndarray]:
        """The value of the prefix that ends with each step, [n] per completion."""
        states = self.step_states(prompts, completions)
        return [self.head(rows)[:, 0].double().cpu().numpy() for rows in states]

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        """The value of each completion's last step, [N]."""
        return [float(several[-1]) for several in self.values(prompts, completions)]

    @property
    def identity(self) -> str:
        """What tells two step reward models apart in a run's record."""
        weights = [weight.detach().cpu().numpy().tobytes() for weight in self.head.parameters()]
        return f"steps {content_hash(self.lm.fingerprint, self.separator, *weights)[:12]}"

    def fit(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        targets: Sequence[Sequence[float] | Tensor],
        training: StepRewardTraining | None = None,
    ) -> list[float]:
        """Regression on a target per step, such as `hindsight_targets`; the loss of every epoch.

        loss = mean over responses of mean_t (value_t - target_t)^2
        Raises: UserError where a completion's steps and targets differ in number.
        """
        states = self.step_states(prompts, completions)
        for place, (rows, target) in enumerate(zip_longest(states, targets, fillvalue=()), 1):
            if len(rows) != len(target):
                raise UserError(
                    f"completion {place} has {len(rows)} steps but {len(target)} targets; "
                    f"every step ends with {self.separator!r}"
                )
        wanted = [torch.as_tensor(target).to(states[0]) for target in targets]

        def loss(places: list[int]) -> Tensor:
            errors = [self.head(states[place])[:, 0] - wanted[place] for place in places]
            return torch.stack([error.square().mean() for error in errors]).mean()

        return self._descended(len(states), loss, training or StepRewardTraining())

    def fit_pairs(
        self,
        prompts: Sequence[Prompt],
        chosen: Sequence[Completion],
        rejected: Sequence[Completion],
        training: StepRewardTraining | None = None,
    ) -> list[float]:
        """Bradley-Terry on whole answers, where no outcome can be verified; loss of every epoch.

        loss = mean over pairs of -log sigmoid(value of chosen - value of rejected)
        """
        ends = [
            torch.stack([rows[-1] for rows in self.step_states(prompts, answers)])
            for answers in (chosen, rejected)
        ]

        def loss(places: list[int]) -> Tensor:
            better, worse = (self.head(states[places])[:, 0] for states in ends)
            return -logsigmoid(better - worse).mean()

        return self._descended(len(ends[0]), loss, training or StepRewardTraining())

    def _descended(
        self, count: int, loss: Callable[[list[int]], Tensor], training: StepRewardTraining
    ) -> list[float]:
        """AdamW over shuffled batches; the mean loss per example of every epoch."""
        generator = torch.Generator().manual_seed(training.seed)
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=training.lr)
        losses = []
        for _ in range(training.epochs):
            total = 0.0
            order = torch.randperm(count, generator=generator).tolist()
            for start in range(0, count, training.batch_size):
                batch = order[start : start + training.batch_size]
                value = loss(batch)
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += value.item() * len(batch)
            losses.append(total / count)
        return losses

    @torch.no_grad()
    def step_states(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[Tensor]:
        """The trunk's last states where the steps end, float32 [n, D] per completion."""
        if len(prompts) != len(completions):
            raise UserError(f"{len(prompts)} prompts but {len(completions)} completions")
        rows = [self._row(*given) for given in enumerate(zip(prompts, completions, strict=True), 1)]
        self.lm.model.eval()
        states = [torch.empty(0)] * len(rows)
        for bucket in buckets([len(ids) for ids, _ in rows], token_budget=self.lm.token_budget):
            texts = [torch.tensor(rows[index][0], device=self.lm.device) for index in bucket]
            real = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
            ids = pad_sequence(texts, batch_first=True, padding_value=self.lm.pad_id)
            inputs = {"input_ids": ids, "attention_mask": real, "use_cache": False}
            output = architecture.run_trunk(self.lm.model, inputs)
            tokens = sum(map(len, texts))
            self.lm.work.add(trunk_tokens=tokens, padding_tokens=ids.numel() - tokens)
            for line, index in enumerate(bucket):
                states[index] = output.last_hidden_state[line, rows[index][1]].float()
        return states

    def _row(self, place: int, given: tuple[Prompt, Completion]) -> tuple[list[int], list[int]]:
        """The token ids of one prompt with its steps, and the column where each step ends."""
        encoder, (prompt, completion) = self.lm.encoder, given
        text = encoder.completion_text(prompt, completion)
        steps = [part + self.separator for part in text.split(self.separator) if part.strip()]
        if not steps:
            raise UserError(f"completion {place} has no step; it needs some text")
        ids, ends = encoder.prompt(prompt), []
        for step in encoder.tokens(steps):
            ids = [*ids, *step]
            ends.append(len(ids) - 1)
        if len(ids) > self.lm.max_length:
            raise UserError(
                f"completion {place} with its prompt has {len(ids)} tokens, but the reward model "
                f"reads {self.lm.max_length}: its last step would have no end; shorten it"
            )
        return ids, ends

    def save(self, folder: Path | str) -> None:
        """Write the head beside a model's files, as `step_rewards.safetensors`."""
        save_tensors(Path(folder) / FILE, self.head.state_dict(), {"separator": self.separator})

    @classmethod
    def load(cls, lm: LanguageModel, folder: Path | str) -> "StepRewardModel":
        """The head that `save` wrote, on the language model that it was fitted on.

        Raises: UserError where the folder has none, or it does not fit the model.
        """
        path = Path(folder) / FILE
        try:
            tensors, header = read_tensors(path)
            found = cls(lm, separator=header["separator"])
            found.head.load_state_dict({name: tensors[name] for name in found.head.state_dict()})
        except (
            safetensors.SafetensorError,
            OSError,
            LookupError,
            ValueError,
            RuntimeError,
        ) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: holds no step rewards for {lm.name} ({reason})") from error
        return found
