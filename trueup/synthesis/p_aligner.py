"""P-Aligner's data: a tree search over rewrites of instructions, led by principles and a reward."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np

from trueup.data.canonical import canonical
from trueup.errors import UserError, check_at_least, check_choice
from trueup.files import content_hash
from trueup.models.endpoint import Endpoint
from trueup.models.reward import Reward, reward_identity, rewards_of
from trueup.models.writer import Writer
from trueup.models.writer_calls import fitted_answers, room_of
from trueup.synthesis.principles import Principle, pool_of, read_principles
from trueup.synthesis.rewrite_forms import RewriteForm, read_form
from trueup.synthesis.rewrite_tree import BACKUPS, Backup, RewriteTree, read_trees, write_trees

AskedAs = Literal["teacher", "rewriter"]
Progress = Callable[[int, int, str], None]
Keep = Callable[[Sequence[RewriteTree]], None]

CHUNK = 64  # trees that grow together, and are saved together


class Scene(Protocol):
    """What the search moves in: who rewrites, and what a rewrite is worth."""

    def rewrites(self, wanted: Sequence[tuple[str, str]]) -> Sequence[str | None]:
        """Each text rewritten by a principle's phrase; None where that could not be had."""
        ...

    def rewards(
        self, wanted: Sequence[tuple[str, str]], *, fresh: bool
    ) -> Sequence[Sequence[float]]:
        """For (raw instruction, rewrite): rewards of answers to the rewrite as answers to the raw.

        Fields: fresh asks for other answers than those of the search.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class PAlignerSearch:
    """Monte Carlo tree search for a rewrite of an instruction that makes a model answer better.

    select   from the raw instruction on to argmax_c Q(c) + w sqrt(ln N(parent) / N(c)), while a
             node has a child by every principle; Q is the mean of own value and children's Q
    expand   by a principle that no child was made by, drawn evenly
    value    u = mean reward of n_responses answers to the rewrite, judged as answers to the *raw*
             instruction: to rewrite what was asked for away does not pay
    back     N += 1 and m = max(own u, children's m) from the child to the root
    At the end the raw instruction gets its own u. Trees grow side by side: each step asks rewriter,
    answerer and reward once for all of them.
    Cost:   per instruction, iterations rewrites and (iterations + 1) n_responses answers and
            rewards; recheck adds at most 3 n_responses. A rewrite or a text that a tree knows
            already is not asked for again.
    Units:  w in the reward's own; with normalise values are scaled to 0..1 over the tree, w 0.5.
    Fields: w 0 is greedy, large w breadth first; backup "flat_mean" is the mean over the subtree
            and "max" m, both not the paper's; asked_as "teacher" is a strong model, "rewriter" one
            that was trained on `step_rows`; attempts to get a rewrite, each with another seed,
            before it counts as failed and the text stays; recheck draws fresh answers to the best,
            the worst and the raw instruction, because the best of many noisy values is too high;
            principles and form are TOML files in place of ours; stop ends an answer.
    Edges:  a rewrite that leaves an answer no room in the answerer's context counts as failed.
    Raises: UserError where a setting leaves its range; where an instruction is blank or too long,
            or a reward fails or is not finite, naming the instruction.
    Source: Song et al. 2025, arXiv 2508.04626. Normalisation, recheck, failed rewrites and all
            words are ours; the rewriter's temperature is not told there.
    """

    iterations: int = 20
    w: float = 0.1
    n_responses: int = 3
    backup: Backup = "nested_mean"
    normalise: bool = False
    asked_as: AskedAs = "teacher"
    max_new_tokens: int = 1024
    temperature: float = 1.0
    stop: tuple[str, ...] = ("\n\nHuman:",)
    rewrite_tokens: int = 1024
    rewrite_temperature: float = 0.7
    attempts: int = 3
    recheck: bool = True
    principles: str = ""
    form: str = ""
    seed: int = 0

    name: ClassVar[str] = "p-aligner"
    arxiv: ClassVar[str] = "2508.04626"

    def __post_init__(self) -> None:
        check_at_least(1, iterations=self.iterations, n_responses=self.n_responses)
        check_at_least(1, max_new_tokens=self.max_new_tokens, rewrite_tokens=self.rewrite_tokens)
        check_at_least(1, attempts=self.attempts)
        check_at_least(0, w=self.w, temperature=self.temperature, seed=self.seed)
        check_at_least(0, rewrite_temperature=self.rewrite_temperature)
        check_choice(BACKUPS, backup=self.backup)
        check_choice(get_args(AskedAs), asked_as=self.asked_as)
        if self.temperature == 0 and self.n_responses > 1:
            raise UserError("n_responses must be 1 at temperature 0, where all answers are one")

    @cached_property
    def known_principles(self) -> list[Principle]:
        """All principles."""
        return read_principles(self.principles or None)

    def search(
        self,
        instructions: Sequence[str],
        *,
        rewriter: Writer,
        answerer: Writer,
        reward: Reward,
        domains: Sequence[Sequence[str]] | None = None,
        folder: Path | str | None = None,
        progress: Progress | None = None,
    ) -> list[RewriteTree]:
        """A tree for every instruction.

        Fields: domains are those of each instruction's principles, beside the ones that suit all;
                folder keeps the trees after every step: the same call goes on where it was stopped,
                and ends as if it had not been.
        Raises: UserError also where the folder holds the trees of another search.
        """
        self._check(instructions, answerer)
        scene = WrittenScene(self, read_form(self.form or None), rewriter, answerer, reward)
        trees = self.seeded(instructions, domains)
        own = {name: value for name, value in asdict(self).items() if name != "iterations"}
        record = content_hash(canonical({**own, "stop": list(self.stop), **scene.identity}))
        for tree in trees:
            tree.record = {"search": record}
        told = progress or _ignored
        chunks = [trees[start : start + CHUNK] for start in range(0, len(trees), CHUNK)]
        grown: list[RewriteTree] = []
        for number, chunk in enumerate(chunks):
            path = None if folder is None else Path(folder) / f"trees-{number + 1:06d}.json"
            found = chunk if path is None else _kept(path, chunk, self.iterations)
            self.grow(
                found,
                scene,
                keep=None if path is None else _keeper(path),
                progress=_part_of(told, len(grown), len(found), len(trees)),
            )
            grown += found
        told(len(trees), len(trees), "searching")
        return grown

    def seeded(
        self, instructions: Sequence[str], domains: Sequence[Sequence[str]] | None = None
    ) -> list[RewriteTree]:
        """A tree without rewrites for every instruction."""
        given = domains or [()] * len(instructions)
        if len(given) != len(instructions):
            raise UserError(
                f"{len(instructions)} instructions but {len(given)} lists of domains; give one each"
            )
        pools = [pool_of(self.known_principles, names) for names in given]
        return [
            RewriteTree(text, {principle.name: principle.phrase for principle in pool})
            for text, pool in zip(instructions, pools, strict=True)
        ]

    def grow(
        self,
        trees: Sequence[RewriteTree],
        scene: Scene,
        *,
        keep: Keep | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Search in trees that have come equally far, side by side, until all are done.

        Trees that were done with fewer iterations go on as if they had not been.
        Fields: keep is told after every step; a search that goes on from there ends the same.
        """
        kept, told = keep or _forgotten, progress or _ignored
        if trees and trees[0].iterations < self.iterations:
            for tree in trees:
                tree.reopen()
        while trees and trees[0].iterations < self.iterations:
            told(trees[0].iterations, self.iterations, "searching")
            self._step(trees, scene)
            kept(trees)
        if trees and not trees[0].nodes[0].rewards:
            for tree, rewards in zip(trees, _rewards(trees, [0] * len(trees), scene), strict=True):
                tree.close(rewards)
            if self.recheck:
                _recheck(trees, scene)
            kept(trees)

    def _step(self, trees: Sequence[RewriteTree], scene: Scene) -> None:
        """One more rewrite in every tree."""
        parents, names = [], []
        for tree in trees:
            parent = tree.chosen(w=self.w, backup=self.backup, normalise=self.normalise)
            unused = tree.unused(parent)
            parents.append(parent)
            names.append(unused[int(self._rng(tree).integers(len(unused)))])
        texts = _rewrites(trees, parents, names, scene)
        whole = [
            tree.nodes[parent].text if text is None else text
            for tree, parent, text in zip(trees, parents, texts, strict=True)
        ]
        found = _valued(trees, whole, scene)
        for tree, parent, name, text, rewrite, rewards in zip(
            trees, parents, names, whole, texts, found, strict=True
        ):
            tree.add(parent, name, text, rewards, failed=rewrite is None)

    def _rng(self, tree: RewriteTree) -> np.random.Generator:
        """The randomness of a tree's next step: a matter of seed, instruction and step alone."""
        return np.random.default_rng([drawn_seed(self.seed, tree.instruction), tree.iterations])

    def _check(self, instructions: Sequence[str], answerer: Writer) -> None:
        """Raise UserError where an instruction is blank, or leaves an answer no room."""
        for number, text in enumerate(instructions, start=1):
            if not text.strip():
                raise UserError(f"instruction {number} is blank, got {text!r}")
            room = room_of(answerer, as_turn(text))
            if room is not None and room < self.max_new_tokens:
                raise UserError(
                    f"instruction {number} leaves an answer {max(room, 0)} tokens in the model's "
                    f"context and max_new_tokens is {self.max_new_tokens}; lower it, or shorten "
                    "the instruction"
                )


class WrittenScene:
    """A scene of models: one rewrites, one answers, a reward judges the answers."""

    def __init__(
        self,
        search: PAlignerSearch,
        form: RewriteForm,
        rewriter: Writer,
        answerer: Writer,
        reward: Reward,
    ) -> None:
        self.search = search
        self.form = form
        self.rewriter = rewriter
        self.answerer = answerer
        self.reward = reward

    @property
    def identity(self) -> dict[str, str]:
        """What tells this scene from another; a writer without a fingerprint by its kind alone."""
        return {
            "rewriter": _identity(self.rewriter),
            "answerer": _identity(self.answerer),
            "reward": reward_identity(self.reward),
            "form": repr(self.form),
        }

    def rewrites(self, wanted: Sequence[tuple[str, str]]) -> list[str | None]:
        """Each text rewritten by the phrase, tried again where it could not be read or used."""
        found: list[str | None] = [None] * len(wanted)
        open_places = list(range(len(wanted)))
        for attempt in range(self.search.attempts):
            if not open_places:
                break
            answers = fitted_answers(
                self.rewriter,
                [self._asked(*wanted[place]) for place in open_places],
                max_new_tokens=self.search.rewrite_tokens,
                temperature=self.search.rewrite_temperature,
                seed=drawn_seed(self.search.seed, f"rewrite {attempt}"),
            )
            for place, answer in zip(open_places, answers, strict=True):
                found[place] = self._read(answer, wanted[place][0])
            open_places = [place for place in open_places if found[place] is None]
        return found

    def rewards(self, wanted: Sequence[tuple[str, str]], *, fresh: bool) -> list[list[float]]:
        """The rewards of n_responses answers to each rewrite."""
        n = self.search.n_responses
        distinct = list(dict.fromkeys(text for _, text in wanted))
        samples = self.answerer.sample(
            [as_turn(text) for text in distinct],
            n=n,
            max_new_tokens=self.search.max_new_tokens,
            temperature=self.search.temperature,
            stop=self.search.stop,
            seed=drawn_seed(self.search.seed, "fresh" if fresh else "answers"),
        )
        answers = dict(zip(distinct, samples, strict=True))
        texts = [one.text for _, text in wanted for one in answers[text]]
        raw = [instruction for instruction, _ in wanted for _ in range(n)]
        values = self._scored(raw, texts)
        return [values[start : start + n] for start in range(0, len(values), n)]

    def _scored(self, raw: Sequence[str], texts: Sequence[str]) -> list[float]:
        """The reward of every answer to a raw instruction.

        Raises: UserError where it fails or is not finite, naming the instruction.
        """
        asked = [self._read_by_reward(instruction) for instruction in raw]
        try:
            values = rewards_of(self.reward, asked, texts)
        except UserError:
            for instruction, prompt, text in zip(raw, asked, texts, strict=True):
                try:
                    rewards_of(self.reward, [prompt], [text])
                except UserError as error:
                    raise UserError(f"instruction {instruction!r:.60}: {error}") from error
            raise
        for value, instruction in zip(values, raw, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"instruction {instruction!r:.60}: the reward must be finite, got {value}"
                )
        return values

    def _asked(self, text: str, phrase: str) -> Any:
        """The rewriter's prompt."""
        if self.search.asked_as == "teacher":
            return self.form.teacher_prompt(text, phrase)
        return self.form.rewriter_prompt(text, phrase)

    def _read(self, answer: str | None, text: str) -> str | None:
        """The rewrite in an answer; None where there is none, or none that can be answered."""
        if answer is None:
            return None
        is_teacher = self.search.asked_as == "teacher"
        found = self.form.parse_bare(answer) if is_teacher else self.form.parse(answer)
        if found is None or not found.strip():
            return None
        if self.form.is_unchanged(found):
            return text
        room = room_of(self.answerer, as_turn(found))
        return None if room is not None and room < self.search.max_new_tokens else found

    def _read_by_reward(self, instruction: str) -> str:
        """The raw instruction as the answerer would read it, where that is known."""
        encoder: Any = getattr(self.answerer, "encoder", None)
        return instruction if encoder is None else encoder.prompt_text(as_turn(instruction))


def as_turn(text: str) -> list[dict[str, str]]:
    """An instruction as the user's turn."""
    return [{"role": "user", "content": text}]


def drawn_seed(seed: int, what: str) -> int:
    """A seed of its own for everything that is drawn; 31 bits, which every server takes."""
    return int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:4], "big") >> 1


def _rewrites(
    trees: Sequence[RewriteTree], parents: Sequence[int], names: Sequence[str], scene: Scene
) -> list[str | None]:
    """The rewrite of each tree's node by a principle, asked for where the tree has not made it."""
    keys: list[tuple[str, str]] = []
    known: dict[tuple[int, str, str], str | None] = {}
    for number, (tree, parent, name) in enumerate(zip(trees, parents, names, strict=True)):
        text = tree.nodes[parent].text
        keys.append((text, tree.principles[name]))
        for node in tree.nodes[1:]:
            assert node.parent is not None
            if node.principle == name and tree.nodes[node.parent].text == text:
                known[number, *keys[-1]] = None if node.failed else node.text
    asked = list(dict.fromkeys(key for n, key in enumerate(keys) if (n, *key) not in known))
    found = dict(zip(asked, scene.rewrites(asked) if asked else (), strict=True))
    return [known[n, *key] if (n, *key) in known else found[key] for n, key in enumerate(keys)]


def _valued(
    trees: Sequence[RewriteTree], texts: Sequence[str], scene: Scene
) -> list[Sequence[float]]:
    """The rewards of each tree's new text, asked for where the tree has no node of that text."""
    known: dict[int, Sequence[float]] = {}
    for number, (tree, text) in enumerate(zip(trees, texts, strict=True)):
        same = [node.rewards for node in tree.nodes if node.text == text and node.rewards]
        if same:
            known[number] = same[0]
    missing = [number for number in range(len(trees)) if number not in known]
    if missing:
        wanted = [(trees[number].instruction, texts[number]) for number in missing]
        known |= dict(zip(missing, scene.rewards(wanted, fresh=False), strict=True))
    return [known[number] for number in range(len(trees))]


def _rewards(
    trees: Sequence[RewriteTree], places: Sequence[int], scene: Scene
) -> list[Sequence[float]]:
    """The rewards of one node of each tree."""
    texts = [tree.nodes[place].text for tree, place in zip(trees, places, strict=True)]
    return _valued(trees, texts, scene)


def _recheck(trees: Sequence[RewriteTree], scene: Scene) -> None:
    """Fresh rewards for the best, the worst and the raw instruction of every tree."""
    nodes = [
        (tree.instruction, node)
        for tree in trees
        for node in {id(node): node for node in (tree.nodes[0], tree.best(), tree.worst())}.values()
    ]
    found = scene.rewards([(raw, node.text) for raw, node in nodes], fresh=True)
    for (_, node), rewards in zip(nodes, found, strict=True):
        node.fresh = list(rewards)


def _identity(writer: Any) -> str:
    """What tells a writer from another; an endpoint's fingerprint changes with its first answer."""
    if isinstance(writer, Endpoint):
        told = {"url": writer.url, "model": writer.model, "system": writer.system}
        return content_hash(canonical({**told, "extra": writer.extra}))
    return str(getattr(writer, "fingerprint", type(writer).__qualname__))


def _kept(path: Path, trees: list[RewriteTree], iterations: int) -> list[RewriteTree]:
    """The trees of a stopped search, or those given where there is no file yet.

    Raises: UserError where they are another search's, or have gone further.
    """
    if not path.exists():
        return trees
    found = read_trees(path)
    told, wanted = (
        [(tree.instruction, tree.principles, tree.record) for tree in several]
        for several in (found, trees)
    )
    if told != wanted:
        raise UserError(
            f"{path}: holds the trees of other instructions, settings or models; give another "
            "folder, or move it away"
        )
    if found[0].iterations > iterations:
        raise UserError(
            f"{path}: holds trees of {found[0].iterations} iterations, got iterations = "
            f"{iterations}; give at least as many, or another folder"
        )
    return found


def _keeper(path: Path) -> Keep:
    return lambda trees: write_trees(path, trees)


def _part_of(progress: Progress, before: int, size: int, total: int) -> Progress:
    """The progress of one chunk of so many trees as that of all."""
    return lambda done, steps, what: progress(before + size * done // steps, total, what)


def _forgotten(trees: Sequence[RewriteTree]) -> None:
    """Keep nothing."""


def _ignored(done: int, total: int, what: str) -> None:
    """Tell nobody."""
