"""Models whose probabilities are a script, behind the same doors as trained ones.

A script names the words that matter and their probabilities; all other words share what is left.
Texts go through a real tokenizer, a token per word, and through the audits' real code.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from trueup.models.encoding import Encoder
from trueup.models.language_model import LanguageModel
from trueup.models.masked_language_model import Attended, MaskedLanguageModel, MaskedRow
from trueup.models.prefix_tree import Group
from trueup.models.work import Work

SPECIALS = ("<pad>", "<s>", "</s>", "<mask>")
MASK = SPECIALS[3]
LONGEST = 512

Named = Mapping[str, float]
Following = Callable[[Sequence[str]], Named]  # the words so far -> probabilities of the next
Filling = Callable[[Sequence[str], int], Named]  # a row's words, a position -> probabilities there


class ScriptedModel(LanguageModel):
    """A causal model given by `following`: the words so far -> probabilities of the next word."""

    def __init__(self, texts: Iterable[str], following: Following) -> None:
        self.tokenizer = word_tokenizer(texts, "<s> $A")
        self.encoder = Encoder(self.tokenizer)
        self.name = "scripted"
        self.work = Work()
        self._following = following
        self._words = _word_list(self.tokenizer)

    def __repr__(self) -> str:
        return "ScriptedModel()"

    @property
    def max_length(self) -> int:
        """Tokens that one sequence may have."""
        return LONGEST

    @property
    def fingerprint(self) -> str:
        """A script has no weights; a draw is told by its world and seed."""
        return "scripted"

    def score_groups(self, groups: Sequence[Group]) -> list[list[NDArray[np.float64]]]:
        """Per group and completion the token log-probabilities [T]."""
        return [[self._logps(group.prompt, ids) for ids in group.completions] for group in groups]

    def _logps(self, prompt: Sequence[int], ids: Sequence[int]) -> NDArray[np.float64]:
        """Log-probabilities of the tokens after the prompt."""
        words = [self._words[token] for token in (*prompt, *ids)]
        first = len(prompt)
        start = 1 if words[0] == SPECIALS[1] else 0
        return np.log(
            [
                _probability(self._following(words[start:end]), words[end], len(self._words))
                for end in range(first, len(words))
            ]
        )


class ScriptedMaskedModel(MaskedLanguageModel):
    """A masked model given by `filling`: a row's words and a position -> probabilities there.

    The row's words stand without its two special tokens, and the position counts them only.
    Attention is even: every position of a row of T tokens receives 1 / T.
    """

    def __init__(self, texts: Iterable[str], filling: Filling) -> None:
        self.tokenizer = word_tokenizer(texts, "<s> $A </s>")
        self.name = "scripted"
        self.work = Work()
        self.mask_id = int(self.tokenizer.mask_token_id or 0)
        self._filling = filling
        self._words = _word_list(self.tokenizer)
        self._lines = {word: number for number, word in enumerate(self._words)}

    def __repr__(self) -> str:
        return "ScriptedMaskedModel()"

    @property
    def max_length(self) -> int:
        """Tokens that one sequence may have."""
        return LONGEST

    @property
    def fingerprint(self) -> str:
        """A script has no weights; a draw is told by its world and seed."""
        return "scripted"

    def masked_logps(self, rows: Sequence[MaskedRow]) -> list[NDArray[np.float64]]:
        """Log-probabilities of targets at positions, [P] per row."""
        return [self._row_logps(*row) for row in rows]

    def attended_logps(self, rows: Sequence[MaskedRow]) -> list[Attended]:
        """The same with even attention."""
        return [
            (logps, np.full(len(logps), 1 / len(ids)))
            for logps, (ids, _, _) in zip(self.masked_logps(rows), rows, strict=True)
        ]

    def vocabulary_logps(self, rows: Sequence[tuple[Sequence[int], int]]) -> NDArray[np.float64]:
        """Log-probabilities of every token at one position of each row, [N, V]."""
        table = np.empty((len(rows), len(self._words)))
        for line, (ids, place) in enumerate(rows):
            named = self._filling([self._words[token] for token in ids[1:-1]], place - 1)
            table[line] = (1 - sum(named.values())) / (len(self._words) - len(named))
            for word, probability in named.items():
                table[line, self._lines[word]] = probability
        return np.log(table)

    def _row_logps(
        self, ids: Sequence[int], places: Sequence[int], targets: Sequence[int]
    ) -> NDArray[np.float64]:
        """One row's log-probabilities; each position's script is asked once."""
        words = [self._words[token] for token in ids[1:-1]]
        known = {place: self._filling(words, place - 1) for place in set(places)}
        asked = zip(places, targets, strict=True)
        size = len(self._words)
        found = [_probability(known[place], self._words[token], size) for place, token in asked]
        return np.log(found)


def _probability(named: Named, word: str, size: int) -> float:
    """The word's own probability, or its share of what the named words leave."""
    if word in named:
        return named[word]
    return (1 - sum(named.values())) / (size - len(named))


def word_tokenizer(texts: Iterable[str], form: str) -> transformers.PreTrainedTokenizerFast:
    """A token per word or mark of the texts; special tokens as in `form`."""
    split = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    lines = {token: number for number, token in enumerate((*SPECIALS, *words))}
    backend = Tokenizer(models.WordLevel(lines, unk_token=SPECIALS[0]))
    backend.pre_tokenizer = split
    ends = [(token, lines[token]) for token in SPECIALS[1:3]]
    backend.post_processor = processors.TemplateProcessing(single=form, special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token=SPECIALS[0],
        bos_token=SPECIALS[1],
        eos_token=SPECIALS[2],
        mask_token=SPECIALS[3],
        model_max_length=LONGEST,
    )


def _word_list(tokenizer: transformers.PreTrainedTokenizerFast) -> list[str]:
    """The vocabulary in the order of its ids."""
    return list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
