"""Counted work: what a model was asked to compute, free of the machine's speed."""

from dataclasses import asdict, dataclass


@dataclass
class Work:
    """Counters that grow with every forward pass.

    Fields: trunk_tokens, real tokens through the transformer; head_rows, positions through the
            output head; padding_tokens, trunk positions that held no token.
    """

    trunk_tokens: int = 0
    head_rows: int = 0
    padding_tokens: int = 0

    def add(self, *, trunk_tokens: int = 0, head_rows: int = 0, padding_tokens: int = 0) -> None:
        """Count one forward pass."""
        self.trunk_tokens += trunk_tokens
        self.head_rows += head_rows
        self.padding_tokens += padding_tokens

    def reset(self) -> None:
        """Start again from nothing."""
        self.trunk_tokens = self.head_rows = self.padding_tokens = 0

    def as_dict(self) -> dict[str, int]:
        """The counters as run.json holds them."""
        return asdict(self)
