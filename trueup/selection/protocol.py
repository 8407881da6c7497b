"""What `trueup select` needs to know of a selector."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from trueup.models import LanguageModel


class Selector(Protocol):
    """A score for rows of training data: a frozen dataclass of settings.

    Fields: contract names the columns of the rows, as `trueup.data.read` takes it.
    """

    name: ClassVar[str]
    contract: ClassVar[str]

    def score(self, lm: LanguageModel, rows: Any) -> NDArray[np.float64]:
        """One number per row, [N], which does not depend on the other rows."""
        ...

    def kept(self, scores: Sequence[float], keep: float) -> list[int]:
        """Indices of the share `keep` of rows to train on, in data order."""
        ...
