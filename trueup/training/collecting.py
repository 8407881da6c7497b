"""One round of own samples: drawn, rewarded, scored, and kept as training examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from trueup.objectives.protocol import Collecting, Data
from trueup.training.config import TrainingConfig
from trueup.training.examples import Example, Examples
from trueup.training.processes import Processes
from trueup.training.prompts import Prompts, turns
from trueup.training.rounds import Round
from trueup.training.scoring import Family, Scoring

DEMONSTRATIONS = "demonstrations"  # of a ranker, in the memory
RUNNING = "running_"  # a prompt's quantity of this name is given again in its next round


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

    The processes share the prompts: each samples, rewards and scores its own, and all get all.

    Fields: policy samples; reference scores the samples, None where nobody needs it;
            calibration [N, M] are rewards of the reference's own samples, where an objective asks.
    """

    objective: Objective
    prompts: Prompts
    config: TrainingConfig
    processes: Processes
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

    def drawn(
        self, indices: Sequence[int], count: int, seed: str, work: Work
    ) -> list[list[Sample]]:
        """Samples of some prompts, in their order; the seed is a text of its own per round.

        A sample depends on weights, seed, its prompt, how many equal ones stand before it, and its
        number: not on which process drew it.
        """
        groups = [self.prompts.groups[index] for index in indices]
        repeated = turns([group.prompt for group in groups])
        before = self.policy.work.as_dict()

        def own(mine: list[int]) -> list[list[Sample]]:
            found: dict[int, list[Sample]] = {}
            for turn in sorted({repeated[place] for place in mine}):
                places = [place for place in mine if repeated[place] == turn]
                several = [groups[place].prompt for place in places]
                own_seed = f"{seed}:{turn}" if turn else seed
                found |= zip(places, self._sampled(several, count, own_seed), strict=True)
            return [found[place] for place in mine]

        samples = self.processes.shared(len(groups), own)
        spent = self.policy.work.as_dict()
        drawing = Work(**{name: value - before[name] for name, value in spent.items()})
        work.add(**self.processes.total_work(drawing).as_dict())
        return samples

    def _sampled(self, prompts: Sequence[list[int]], count: int, seed: str) -> list[list[Sample]]:
        """Samples of distinct prompts, drawn by this process."""
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
        for start in range(0, len(prompts), per_call):
            if self.stopped():
                raise InterruptedRun("stopped while sampling; go on with --resume")
            found += sample_prompts(
                self.policy.start_ids,
                prompts[start:][:per_call],
                self.policy.tokenizer,
                settings,
                rows=MAX_ROWS,
            )
        return found

    def rewards(self, indices: Sequence[int], samples: Sequence[Sequence[Sample]]) -> Tensor:
        """The reward of every sample, [B, K].

        Raises: UserError where the reward gives no number for every sample.
        """
        reward = self.judges.reward
        assert reward is not None

        def own(mine: list[int]) -> list[list[float]]:
            texts = [self.prompts.texts[indices[place]] for place in mine for _ in samples[place]]
            flat = [sample.text for place in mine for sample in samples[place]]
            values = iter(rewards_of(reward, texts, flat))
            return [[next(values) for _ in samples[place]] for place in mine]

        values = torch.tensor(self.processes.shared(len(samples), own))
        if self.objective.data == "samples" and not torch.isfinite(values).all():
            place = self.prompts.table.place(indices[0])
            name = reward_identity(reward).split()[0]
            raise UserError(f"reward {name}: is not finite for a sample of {place} or later")
        return values

    def groups(self, indices: Sequence[int], samples: Sequence[Sequence[Sample]]) -> list[Group]:
        """Some prompts with the completion that their row brings, if any, and their samples."""
        return [
            Group(
                self.prompts.groups[index].prompt,
                [*self.prompts.groups[index].completions, *(s.token_ids for s in several)],
            )
            for index, several in zip(indices, samples, strict=True)
        ]

    @torch.no_grad()
    def scored(
        self, scoring: Scoring, groups: Sequence[Group], work: Work
    ) -> tuple[Tensor, Tensor]:
        """A model's sums [B, W] of completions, and token tables [B, W, T], T max_new_tokens."""
        columns, width = len(groups[0].completions), self.config.max_new_tokens
        longest = max(width, max(len(part) for group in groups for part in group.completions))
        mine = self.processes.share(len(groups))
        families: list[Family] = [[groups[place]] for place in mine]
        own = Work()
        tokens = torch.zeros(len(groups), columns, longest)
        for part in scoring.buckets(families):
            table, _ = scoring([families[number] for number in part], own)
            places = [mine[number] for number in part]
            tokens[places, :, : table.shape[1]] = (
                table.float().cpu().reshape(len(part), columns, -1)
            )
        work.add(**self.processes.total_work(own).as_dict())
        tokens = self.processes.total(tokens).float()
        return tokens.sum(dim=-1).double(), tokens[:, :, :width]

    def collect(
        self, number: int, indices: Sequence[int], memory: dict[str, Any], work: Work
    ) -> tuple[Round, pd.DataFrame]:
        """Round `number` over some prompts, and its samples as a table."""
        objective = self.objective
        assert isinstance(objective, Collecting)
        samples = self.drawn(indices, self.count, f"{self.config.seed}:{number}", work)
        groups = self.groups(indices, samples)
        batch = _proposal(samples, self.config.max_new_tokens)
        if objective.data == "dispreferred":
            batch["sample_mask"] = torch.tensor(
                [[bool(s.text.strip()) for s in k] for k in samples]
            )
        reference = None
        if self.reference is not None:
            reference, tokens = self.scored(self.reference, groups, work)
            batch["ref_sample_logps"] = reference[:, -self.count :]
            batch["ref_sample_token_logps"] = tokens[:, -self.count :]
        if self.judges.reward is not None:
            batch["rewards"] = self.rewards(indices, samples)
        if self.judges.ranker is not None:
            batch["black_box_ranking"] = self.processes.on_main(
                lambda: self._ranked(number, indices, samples, memory)
            )
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
