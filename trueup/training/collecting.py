"""One round of own samples: drawn, rewarded, scored, and kept as training examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from trueup.errors import InterruptedRun, UserError
from trueup.judging.ranking import DemoPool, Ranker, rank_with
from trueup.models import Group, LanguageModel, Work
from trueup.models.language_model import MAX_ROWS
from trueup.models.reward import Reward, reward_identity, rewards_of
from trueup.models.sampling import Sample, Sampling, sample_prompts
from trueup.objectives import Objective
from trueup.objectives.protocol import ROLES, Collecting, Data
from trueup.training.config import TrainingConfig
from trueup.training.examples import Example, Examples
from trueup.training.prompts import Prompts
from trueup.training.scoring import Family, Scoring
from trueup.training.tensors import load_tensors, save_tensors

DEMONSTRATIONS = "demonstrations"  # of a ranker, in the memory
RUNNING = "running_"  # a prompt's quantity of this name is given again in its next round


@dataclass(frozen=True)
class Round:
    """The examples of one round.

    Shapes: reference [B, W], None where the objective has none.
    Fields: means are the numbers of the round that every step's row shows.
    """

    examples: Examples
    reference: Tensor | None
    means: dict[str, float]


@dataclass(frozen=True)
class Judges:
    """Whoever says which samples are good: a reward, or a ranker, each where it is asked for."""

    reward: Reward | None = None
    ranker: Ranker | None = None

    def identities(self) -> dict[str, str | None]:
        """What tells them from others, for a run's record."""
        known = {"reward": self.reward, "ranker": self.ranker}
        return {
            name: None if judge is None else reward_identity(judge) for name, judge in known.items()
        }


@dataclass
class Collector:
    """Draws rounds; what it gives depends on weights, seed, round and memory alone.

    Fields: policy samples; reference scores the samples, None where nobody needs it;
            calibration [N, M] are rewards of the reference's own samples, where an objective asks.
    """

    objective: Objective
    prompts: Prompts
    config: TrainingConfig
    policy: LanguageModel
    reference: Scoring | None
    judges: Judges
    stopped: Callable[[], bool]
    calibration: Tensor | None = None

    @property
    def count(self) -> int:
        """Samples of a prompt."""
        assert isinstance(self.objective, Collecting)
        return self.objective.samples

    def drawn(self, indices: Sequence[int], count: int, seed: str) -> list[list[Sample]]:
        """Samples of some prompts, in their order; the seed is a text of its own per round."""
        settings = Sampling(
            n=count,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            top_k=self.config.top_k,
            top_p=self.config.top_p,
            seed=int.from_bytes(seed.encode(), "big"),
        )
        found: list[list[Sample]] = []
        per_call = max(1, MAX_ROWS // count)
        self.policy.model.eval()
        for start in range(0, len(indices), per_call):
            if self.stopped():
                raise InterruptedRun("stopped while sampling; go on with --resume")
            several = [self.prompts.groups[index].prompt for index in indices[start:][:per_call]]
            found += sample_prompts(
                self.policy.start_ids, several, self.policy.tokenizer, settings, rows=MAX_ROWS
            )
        return found

    def rewards(self, indices: Sequence[int], samples: Sequence[Sequence[Sample]]) -> Tensor:
        """The reward of every sample, [B, K].

        Raises: UserError where the reward gives no number for every sample.
        """
        assert self.judges.reward is not None
        flat = [sample.text for several in samples for sample in several]
        texts = [
            self.prompts.texts[index]
            for index, several in zip(indices, samples, strict=True)
            for _ in several
        ]
        values = torch.tensor(rewards_of(self.judges.reward, texts, flat))
        if self.objective.data == "samples" and not torch.isfinite(values).all():
            place = self.prompts.table.place(indices[0])
            name = reward_identity(self.judges.reward).split()[0]
            raise UserError(f"reward {name}: is not finite for a sample of {place} or later")
        return values.reshape(len(samples), -1)

    def collect(
        self, number: int, indices: Sequence[int], memory: dict[str, Any], work: Work
    ) -> tuple[Round, pd.DataFrame]:
        """Round `number` over some prompts, and its samples as a table."""
        objective = self.objective
        assert isinstance(objective, Collecting)
        before = self.policy.work.as_dict()
        samples = self.drawn(indices, self.count, f"{self.config.seed}:{number}")
        spent = self.policy.work.as_dict()
        work.add(**{name: value - before[name] for name, value in spent.items()})
        groups = [
            Group(
                self.prompts.groups[index].prompt,
                [*self.prompts.groups[index].completions, *(s.token_ids for s in several)],
            )
            for index, several in zip(indices, samples, strict=True)
        ]
        batch = _proposal(samples, self.config.max_new_tokens)
        if objective.data == "dispreferred":
            batch["sample_mask"] = torch.tensor(
                [[bool(s.text.strip()) for s in k] for k in samples]
            )
        reference = None
        if self.reference is not None:
            sums, tokens = _scored(self.reference, groups, self.config.max_new_tokens, work)
            reference = sums
            batch["ref_sample_logps"] = sums[:, -self.count :]
            batch["ref_sample_token_logps"] = tokens[:, -self.count :]
        if self.judges.reward is not None:
            batch["rewards"] = self.rewards(indices, samples)
        if self.judges.ranker is not None:
            batch["black_box_ranking"] = self._ranked(number, indices, samples, memory)
        if self.calibration is not None:
            batch["ref_rewards"] = self.calibration[list(indices)]
        batch |= _recalled(memory, indices)
        made = objective.collected(batch)
        if "agreement" in made:
            self._agree(indices, samples, made.pop("agreement"), memory)
        _remember(memory, made, indices)
        table = _table(self.prompts, indices, samples, batch, made, number)
        means = _means(batch)
        if objective.data == "completions":
            return Round(self._kept(indices, groups, made["keep"]), None, means), table
        known = _known_of_samples(objective.data, batch, made)
        items = [
            Example(
                self.prompts.table.place(index),
                (group,),
                {name: value[row] for name, value in known.items()},
            )
            for row, (index, group) in enumerate(zip(indices, groups, strict=True))
        ]
        return Round(Examples(objective.data, items), reference, means), table

    def _ranked(
        self,
        number: int,
        indices: Sequence[int],
        samples: Sequence[Sequence[Sample]],
        memory: Mapping[str, Any],
    ) -> Tensor:
        """The ranker's order of each prompt's samples, [B, K], -1 behind the last."""
        assert self.judges.ranker is not None
        pool = DemoPool()
        pool.restore(memory.get(DEMONSTRATIONS, []))
        table = torch.full((len(samples), len(samples[0])), -1)
        for row, (index, several) in enumerate(zip(indices, samples, strict=True)):
            prompt = self.prompts.texts[index]
            texts = [sample.text for sample in several]
            seed = self.config.seed + number
            found = rank_with(self.judges.ranker, prompt, texts, pool.shown(prompt), seed=seed)
            if found is not None:
                table[row, : len(found)] = torch.tensor(found)
        return table

    def _agree(
        self,
        indices: Sequence[int],
        samples: Sequence[Sequence[Sample]],
        agreement: Tensor,
        memory: dict[str, Any],
    ) -> None:
        """Where policy and ranker agree becomes what the ranker is shown next."""
        pool = DemoPool()
        pool.restore(memory.get(DEMONSTRATIONS, []))
        for index, several, row in zip(indices, samples, agreement.tolist(), strict=True):
            pool.add(self.prompts.texts[index], [several[k].text for k in row if k >= 0])
        memory[DEMONSTRATIONS] = pool.state()

    def _kept(self, indices: Sequence[int], groups: Sequence[Group], keep: Tensor) -> Examples:
        """The samples that are kept, as completions to imitate."""
        items = [
            Example(self.prompts.table.place(index), (Group(group.prompt, [completion]),))
            for index, group, row in zip(indices, groups, keep.tolist(), strict=True)
            for completion, is_kept in zip(group.completions, row, strict=True)
            if is_kept
        ]
        return Examples("completions", items)


def _known_of_samples(
    kind: Data, batch: Mapping[str, Tensor], made: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the loss is given beside the policy's own numbers, by the batch's keywords."""
    if kind == "imitated":
        return {}
    known = {"sample_mask": batch["sample_mask"], **made}
    if kind == "samples":
        known["proposal_logps"] = batch["sample_logps"]
        known["proposal_token_logps"] = batch["sample_token_logps"]
        if "ref_sample_token_logps" in batch:
            known["ref_sample_token_logps"] = batch["ref_sample_token_logps"]
    return known


def _proposal(samples: Sequence[Sequence[Sample]], width: int) -> dict[str, Tensor]:
    """What the sampler knows: sums, lengths and token tables, [B, K] and [B, K, T]."""
    shape = (len(samples), len(samples[0]), width)
    tokens = torch.zeros(shape)
    for row, several in enumerate(samples):
        for column, sample in enumerate(several):
            tokens[row, column, : len(sample.logps)] = torch.tensor(sample.logps)
    lengths = torch.tensor([[len(sample.token_ids) for sample in k] for k in samples])
    return {
        "sample_logps": tokens.sum(dim=-1),
        "sample_token_logps": tokens,
        "sample_lengths": lengths.float(),
        "sample_mask": torch.ones(shape[:2], dtype=torch.bool),
    }


@torch.no_grad()
def _scored(
    scoring: Scoring, groups: Sequence[Group], width: int, work: Work
) -> tuple[Tensor, Tensor]:
    """The reference's sums [B, W] and token tables [B, W, T]."""
    families: list[Family] = [[group] for group in groups]
    columns = len(groups[0].completions)
    longest = max(width, max(len(part) for group in groups for part in group.completions))
    tokens = torch.zeros(len(groups), columns, longest)
    for part in scoring.buckets(families):
        table, _ = scoring([families[index] for index in part], work)
        tokens[part, :, : table.shape[1]] = table.float().cpu().reshape(len(part), columns, -1)
    return tokens.sum(dim=-1).double(), tokens[:, :, :width]


def _means(batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean reward, KL to the reference and length of a round's samples."""
    means = {"sample_tokens": float(batch["sample_lengths"].mean())}
    if "rewards" in batch:
        means["reward"] = float(batch["rewards"].nanmean())
    if "ref_sample_logps" in batch:
        means["kl"] = float((batch["sample_logps"] - batch["ref_sample_logps"]).mean())
    return means


def _recalled(memory: Mapping[str, Any], indices: Sequence[int]) -> dict[str, Tensor]:
    """The running quantities of these prompts, NaN for prompts not seen yet."""
    return {
        name: torch.tensor([values.get(str(index), float("nan")) for index in indices])
        for name, values in memory.items()
        if name.startswith(RUNNING)
    }


def _remember(memory: dict[str, Any], made: dict[str, Tensor], indices: Sequence[int]) -> None:
    """Take the running quantities out of what was made, into the memory."""
    for name in [name for name in made if name.startswith(RUNNING)]:
        kept = memory.setdefault(name, {})
        for index, value in zip(indices, made.pop(name).tolist(), strict=True):
            kept[str(index)] = value


def _table(
    prompts: Prompts,
    indices: Sequence[int],
    samples: Sequence[Sequence[Sample]],
    batch: Mapping[str, Tensor],
    made: Mapping[str, Tensor],
    number: int,
) -> pd.DataFrame:
    """A row per sample."""
    count = len(samples[0])
    flat = [sample for several in samples for sample in several]
    table = pd.DataFrame(
        {
            "id": [
                f"{prompts.table.place(index)} sample {k + 1}"
                for index in indices
                for k in range(count)
            ],
            "round": number + 1,
            "prompt": np.repeat(list(indices), count),
            "completion": [sample.text for sample in flat],
            "tokens": [len(sample.token_ids) for sample in flat],
            "ended": [sample.reason for sample in flat],
            "logps": batch["sample_logps"].flatten().tolist(),
        }
    )
    shown = {"rewards": "reward", "ref_sample_logps": "ref_logps", "keep": "kept"}
    for name, column in shown.items():
        values = made.get(name, batch.get(name))
        if values is not None:
            table[column] = values.flatten().tolist()
    return table


def save_round(path: Path, found: Round) -> None:
    """Write a round's tokens and tensors, so that a killed run finds them again."""
    items = found.examples.items
    tensors = {f"known.{name}": _stacked(items, name) for name in items[0].known} if items else {}
    if found.reference is not None:
        tensors["reference"] = found.reference.contiguous()
    tokens = [item.group for item in items]
    tensors["prompt_lengths"] = torch.tensor([len(group.prompt) for group in tokens])
    tensors["prompts"] = torch.tensor([token for group in tokens for token in group.prompt])
    lengths = [item.lengths for item in items]
    tensors["lengths"] = torch.tensor(lengths).reshape(len(items), -1)
    tensors["completions"] = torch.tensor(
        [token for group in tokens for part in group.completions for token in part]
    )
    metadata = {f"mean.{name}": repr(value) for name, value in found.means.items()}
    metadata |= {"kind": found.examples.kind, "places": "\n".join(item.place for item in items)}
    save_tensors(path, tensors, metadata)


def load_round(path: Path) -> Round:
    """The round that `save_round` wrote."""
    tensors, metadata = load_tensors(path)
    prompts = iter(_cut(tensors["prompts"], tensors["prompt_lengths"].tolist()))
    lengths = tensors["lengths"].long().tolist()
    parts = iter(_cut(tensors["completions"], [n for several in lengths for n in several]))
    known = {
        name.removeprefix("known."): value
        for name, value in tensors.items()
        if name.startswith("known.")
    }
    places = metadata["places"].split("\n")
    items = [
        Example(
            places[row],
            (Group(next(prompts), [next(parts) for _ in several]),),
            {name: value[row] for name, value in known.items()},
        )
        for row, several in enumerate(lengths)
    ]
    means = {
        name.removeprefix("mean."): float(value)
        for name, value in metadata.items()
        if name.startswith("mean.")
    }
    kind = next(kind for kind in ROLES if kind == metadata["kind"])
    return Round(Examples(kind, items), tensors.get("reference"), means)


def _stacked(items: Sequence[Example], name: str) -> Tensor:
    """One known quantity of all examples."""
    return torch.stack([torch.as_tensor(item.known[name]) for item in items]).contiguous()


def _cut(tokens: Tensor, lengths: Sequence[int]) -> list[list[int]]:
    """A run of tokens as lists of the given lengths."""
    return [part.tolist() for part in torch.split(tokens.long(), list(lengths))]
