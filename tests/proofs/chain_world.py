"""Sheet 00's shared tiny world (8g): a GPT-2 that knows a Markov chain, and its samples."""

import copy
from collections.abc import Callable

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy

from trueup.objectives.logps import sequence_logps

VOCABULARY = 24
PROMPT, COMPLETION, SHARED = 4, 6, 3

Loss = Callable[[dict[str, Tensor]], Tensor]


class ChainWorld:
    """The reference model, and `n_pairs` shared-prefix pairs: same first half, other ending."""

    def __init__(self, seed: int, n_pairs: int = 50) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.transitions = (1.5 * torch.randn(VOCABULARY, VOCABULARY)).softmax(-1)
            self.reference = transformers.GPT2LMHeadModel(
                transformers.GPT2Config(
                    vocab_size=VOCABULARY,
                    n_positions=16,
                    n_embd=32,
                    n_layer=2,
                    n_head=2,
                    resid_pdrop=0.0,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                    bos_token_id=0,
                    eos_token_id=0,
                )
            )
            optimizer = torch.optim.Adam(self.reference.parameters(), lr=3e-3)
            for _ in range(150):
                chains = self.chains(32, 12)
                logits = self.reference(chains).logits[:, :-1].flatten(0, 1)
                optimizer.zero_grad()
                cross_entropy(logits, chains[:, 1:].flatten()).backward()
                optimizer.step()
            self.reference.eval().requires_grad_(False)
            prompts = self.chains(n_pairs, PROMPT)
            chosen = self.continued(prompts, COMPLETION)
            rejected = self.continued(chosen[:, : PROMPT + SHARED], COMPLETION - SHARED)
        self.ids = torch.cat([chosen, rejected])
        self.known = self.sums(self.reference)

    def chains(self, n: int, length: int) -> Tensor:
        """True chains [n, length], first token uniform."""
        tokens = [torch.randint(VOCABULARY, (n,))]
        for _ in range(length - 1):
            tokens.append(torch.multinomial(self.transitions[tokens[-1]], 1)[:, 0])
        return torch.stack(tokens, dim=1)

    def continued(self, ids: Tensor, steps: int) -> Tensor:
        """The rows with `steps` tokens sampled from the reference."""
        with torch.no_grad():
            for _ in range(steps):
                last = self.reference(ids).logits[:, -1].softmax(-1)
                ids = torch.cat([ids, torch.multinomial(last, 1)], dim=1)
        return ids

    def sums(self, model: torch.nn.Module) -> list[Tensor]:
        """Log-probabilities of the chosen and the rejected completions, [N] each."""
        mask = (torch.arange(PROMPT + COMPLETION) >= PROMPT).expand(self.ids.shape)
        logits = model(self.ids).logits
        return list(
            sequence_logps(logits=logits, ids=self.ids, completion_mask=mask).logps.chunk(2)
        )

    def trained(self, loss: Loss, steps: int = 150) -> tuple[float, float, float]:
        """Mean changes of ln pi(chosen) and ln pi(rejected), and of the margin, after training."""
        model = copy.deepcopy(self.reference).requires_grad_(True)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        ref_chosen, ref_rejected = self.known
        lengths = torch.full_like(ref_chosen, COMPLETION)
        for _ in range(steps):
            chosen, rejected = self.sums(model)
            batch = {
                "chosen_logps": chosen,
                "rejected_logps": rejected,
                "ref_chosen_logps": ref_chosen,
                "ref_rejected_logps": ref_rejected,
                "chosen_lengths": lengths,
                "rejected_lengths": lengths,
            }
            optimizer.zero_grad()
            loss(batch).mean().backward()
            optimizer.step()
        with torch.no_grad():
            chosen, rejected = self.sums(model)
        up, down = (chosen - ref_chosen).mean().item(), (rejected - ref_rejected).mean().item()
        return up, down, up - down
