"""Evaluation on own samples: held-out prompts, answered with the same random numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trueup.models import Group, Work
from trueup.models.sampling import Sample
from trueup.objectives.protocol import ROLES
from trueup.stats import mean
from trueup.training.collecting import Collector
from trueup.training.monitoring import top_k_means
from trueup.training.scoring import Family, Scoring


@dataclass(frozen=True)
class OwnSamples:
    """What the policy does on prompts that it does not train on.

    Fields: collector draws for the held-out prompts and knows the reference; scoring runs the
            policy; k is that of top-k entropy and mass, None where nothing is monitored.
    """

    collector: Collector
    scoring: Scoring
    k: int | None

    def measured(self, work: Work) -> tuple[dict[str, float], NDArray[np.float64] | None]:
        """One evaluation's columns, and each prompt's mean reward [N] where a reward is given.

        Every evaluation samples each prompt as often as a round does, by one seed: between two of
        them only the policy differs.

        Columns: reward with reward_low and reward_high, the mean over prompts with Student's 95 %
                 interval; kl, the mean of log pi/ref over whole samples, in nats; sample_tokens;
                 sample_likelihood, in nats per token; of a completion that rows bring
                 ROLE_likelihood and ROLE_change, the mean of log pi/ref; monitored, entropy_bits
                 and top_k_mass, means over samples of means over positions.
        Edges:   log-probabilities are those at temperature 1 with nothing cut off: at other
                 settings of sampling kl is not the KL of what was sampled.
        """
        collector = self.collector
        everything = range(len(collector.prompts))
        seed = f"{collector.config.seed}:evaluation"
        samples = collector.drawn(everything, collector.count, seed, work)
        collector.policy.model.eval()
        groups = collector.groups(everything, samples)
        assert collector.reference is not None
        reference = collector.scored(collector.reference, groups, work)[0]  # [N, W]
        rewards, row = None, {}
        if collector.judges.reward is not None:
            rewards = collector.rewards(everything, samples).double().nanmean(dim=1).numpy()
            whole = mean(rewards)
            row = {"reward": whole.value, "reward_low": whole.low, "reward_high": whole.high}
        row |= _of_samples(samples, reference[:, -collector.count :])
        row |= self._of_rows(groups, reference, work)
        if self.k is not None:
            row |= self._monitored(groups, samples, work)
        return row, rewards

    def _of_rows(self, groups: Sequence[Group], reference: Tensor, work: Work) -> dict[str, float]:
        """How likely the completions that the rows bring have become."""
        fixed = len(groups[0].completions) - self.collector.count
        if not fixed:
            return {}
        role = ROLES[self.collector.objective.data][0]
        brought = [Group(group.prompt, group.completions[:1]) for group in groups]
        sums = self.collector.scored(self.scoring, brought, work)[0][:, 0]
        lengths = torch.tensor([len(group.completions[0]) for group in groups])
        return {
            f"{role}_likelihood": float((sums / lengths).mean()),
            f"{role}_change": float((sums - reference[:, 0]).mean()),
        }

    def _monitored(
        self, groups: Sequence[Group], samples: Sequence[Sequence[Sample]], work: Work
    ) -> dict[str, float]:
        """Top-k entropy and mass of the policy at the positions of its own samples."""
        assert self.k is not None
        families: list[Family] = [
            [Group(group.prompt, [sample.token_ids for sample in several])]
            for group, several in zip(groups, samples, strict=True)
        ]
        means = top_k_means(self.scoring, self.collector.processes, families, self.k, work)
        entropy, mass = means.mean(dim=(0, 1)).tolist()
        return {"entropy_bits": entropy, "top_k_mass": mass}


def _of_samples(samples: Sequence[Sequence[Sample]], reference: Tensor) -> dict[str, float]:
    """KL, length and likelihood: means over all samples, each prompt having as many."""
    flat = [sample for several in samples for sample in several]
    logps = torch.tensor([sum(sample.logps) for sample in flat], dtype=torch.float64)
    tokens = torch.tensor([len(sample.token_ids) for sample in flat], dtype=torch.float64)
    return {
        "kl": float((logps - reference.flatten()).mean()),
        "sample_tokens": float(tokens.mean()),
        "sample_likelihood": float((logps / tokens).mean()),
    }
