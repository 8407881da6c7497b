"""Check a recipe as a whole before any work: names, types, files, methods, settings, references."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.errors import UserError, unknown_name
from trueup.recipes.recipe import VERBS, Recipe, Source, Step, Verb
from trueup.recipes.yaml_lines import Located, read_yaml

if TYPE_CHECKING:
    from trueup.objectives import Objective

TOP = ("model", "out", "seed", "device", "dtype", "steps")
MODELS = ("reference", "teacher", "ref_teacher")
JUDGES = ("reward", "ranker")
KEYS: dict[Verb, tuple[str, ...]] = {
    "audit": ("name", "audit", "model", "data", "set", "seed"),
    "align": ("name", "align", "model", "data", "eval_data", *MODELS, *JUDGES, "set", "seed"),
    "compare": ("name", "compare"),
    "generate": ("name", "generate", "model", "decoder", "reward", "set", "seed"),
    "report": ("name", "report"),
}
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
KINDS = {"audit": "an audit", "align": "an alignment", "compare": "a comparison"}


def read_recipe(path: str | Path) -> Recipe:
    """Read and check the recipe; paths in it are relative to its folder.

    Raises: UserError `recipe.yaml:12: no step 'befor'; did you mean 'before'? ...` for the first
            thing that is wrong.
    """
    file = Path(path)
    document = read_yaml(file)
    top = _mapping(document, "a recipe", TOP)
    if "steps" not in top:
        raise document.error("'steps' is missing")
    steps = top["steps"]
    if not isinstance(steps.value, list) or not steps.value:
        raise steps.error(f"'steps' must be a list of steps, got {_shown(steps)}")
    checker = _Checker(file.parent, top)
    made = [checker.step(item, number) for number, item in enumerate(steps.value, start=1)]
    out = _text(top["out"], "out") if "out" in top else str(Path("runs") / file.stem)
    return Recipe(
        path=file,
        out=checker.folder / out,
        device=_text(top["device"], "device") if "device" in top else "auto",
        dtype=_text(top["dtype"], "dtype") if "dtype" in top else "auto",
        steps=made,
    )


class _Checker:
    """Checks step after step, and knows the earlier ones."""

    def __init__(self, folder: Path, top: Mapping[str, Located]) -> None:
        self.folder = folder
        self.steps: dict[str, Step] = {}
        self.seed = _seed(top["seed"]) if "seed" in top else 0
        self.model = self.model_source(top["model"]) if "model" in top else None

    def step(self, item: Located, number: int) -> Step:
        """One checked step."""
        if not isinstance(item.value, dict):
            raise item.error(f"a step must be a mapping such as `audit: NAME`, got {_shown(item)}")
        verbs = [verb for verb in VERBS if verb in item.value]
        if len(verbs) != 1:
            got = " and ".join(verbs) or ", ".join(map(repr, item.value)) or "nothing"
            raise item.error(f"a step needs exactly one of {', '.join(VERBS)}; got {got}")
        verb = verbs[0]
        parts = _mapping(item, f"a step of {verb}", KEYS[verb])
        name = self._name(parts.get("name"), f"{number}-{verb}")
        read: dict[Verb, Callable[[Located, Mapping[str, Located]], dict[str, Any]]] = {
            "audit": self._audit,
            "align": self._align,
            "compare": self._compare,
            "generate": self._generate,
            "report": self._report,
        }
        made = Step(name=name, verb=verb, place=item.place, **read[verb](item, parts))
        self.steps[name] = made
        return made

    def model_source(self, value: Located) -> Source:
        """An earlier align step, a model folder, or a hub id."""
        text = _text(value, "model")
        if text in self.steps:
            return self._made_by(value, text, ("align",))
        path = self.folder / Path(text).expanduser()
        if path.is_dir():
            return Source(str(path))
        if HUB_ID.fullmatch(text) and not text.startswith((".", "~")):
            return Source(text)
        raise value.error(self._missing("step or model folder", text))

    def _name(self, value: Located | None, fallback: str) -> str:
        """The step's name, which is also its folder's."""
        if value is None:
            return fallback
        name = _text(value, "name")
        if not NAME.fullmatch(name) or name == "recipe.json":
            raise value.error(f"a name has letters, digits, '-', '_' and '.', got {name!r}")
        if name in self.steps:
            raise value.error(f"the name {name!r} stands twice")
        return name

    def _audit(self, item: Located, parts: Mapping[str, Located]) -> dict[str, Any]:
        """What an audit step holds."""
        from trueup.api.auditing import chosen_audits, job_of

        names = _texts(parts["audit"], "audit")
        _checked(parts["audit"], lambda: chosen_audits(names, {}))
        settings = _settings(parts, lambda given: chosen_audits(names, given))
        data = self._audit_data(item, parts, names)
        for audit in chosen_audits(names, settings):
            source = data[audit.name]
            _checked(parts["data"], lambda a=audit, s=source: job_of(a, s.text))  # type: ignore[misc]
        return {
            "methods": tuple(names),
            "model": self._own_model(item, parts),
            "data": data,
            "settings": settings,
            "seed": _seed(parts["seed"]) if "seed" in parts else self.seed,
        }

    def _align(self, item: Located, parts: Mapping[str, Located]) -> dict[str, Any]:
        """What an align step holds."""
        from trueup.api.aligning import chosen_settings

        name = _text(parts["align"], "align")
        seed = _seed(parts["seed"]) if "seed" in parts else self.seed
        _checked(parts["align"], lambda: chosen_settings(name, {}, seed))
        if "data" not in parts:
            raise item.error("'data' is missing")
        settings = _settings(parts, lambda given: chosen_settings(name, given, seed))
        chosen = chosen_settings(name, settings, seed)[0]
        helpers = {key: self.model_source(parts[key]) for key in MODELS if key in parts}
        helpers |= {key: self._judge(parts[key], key) for key in JUDGES if key in parts}
        _check_needs(item, chosen, {**helpers, "eval_data": parts.get("eval_data")})
        contracts = {"data": getattr(chosen, "source", chosen.data), "eval_data": chosen.data}
        tables = {
            key: self._table(parts[key], contract)
            for key, contract in contracts.items()
            if key in parts
        }
        return {
            "methods": (name,),
            "model": self._own_model(item, parts),
            "helpers": helpers,
            "data": {name: tables["data"]},
            "eval_data": tables.get("eval_data"),
            "settings": settings,
            "seed": seed,
        }

    def _aim(self, value: Located) -> Source:
        """What a decoder aims at: a constraint, or what `_judge` takes."""
        from trueup.decoding.constraints import read_constraint

        text = _text(value, "reward")
        try:
            constraint = read_constraint(text)
        except UserError as error:
            raise value.error(str(error)) from error
        return Source("", before=text) if constraint else self._judge(value, "reward")

    def _judge(self, value: Located, key: str) -> Source:
        """A reward or ranker as the command line takes it, paths relative to the recipe."""
        from trueup.models.reward import load_reward

        text = _text(value, key)
        kind, _, rest = text.partition(":")
        if kind in ("http", "https") and key == "ranker":
            if not text.partition("#")[2]:
                raise value.error(f"ranker {text!r} names no model; write URL#MODEL")
            return Source(text)
        if text == "words":
            return Source("", before=text)
        if kind == "lexicon":
            source = Source(str(self.folder / Path(rest).expanduser()), before="lexicon:")
        elif kind.endswith(".py"):
            source = Source(str(self.folder / Path(kind).expanduser()), after=f":{rest}")
        else:
            return self._classifier(value, text)
        _checked(value, lambda: load_reward(source.words))
        return source

    def _classifier(self, value: Located, text: str) -> Source:
        """A classifier's folder or hub id; what a step makes is none."""
        if text in self.steps:
            raise value.error(f"a classifier is wanted here, but step {text!r} makes none")
        return self.model_source(value)

    def _generate(self, item: Located, parts: Mapping[str, Located]) -> dict[str, Any]:
        """What a generate step holds."""
        from trueup.api.generating import chosen_decoding
        from trueup.decoding import decoder_class

        decoder = _text(parts["decoder"], "decoder") if "decoder" in parts else "sample"
        for name in decoder.split("+"):
            _checked(parts.get("decoder", item), lambda name=name: decoder_class(name))  # type: ignore[misc]
        settings = _settings(
            parts, lambda given: chosen_decoding(decoder, given), alone=decoder == "sample"
        )
        _checked(parts.get("decoder", item), lambda: chosen_decoding(decoder, settings))
        chain = chosen_decoding(decoder, settings)[0]
        helpers = {"reward": self._aim(parts["reward"])} if "reward" in parts else {}
        _checked(parts.get("reward", item), lambda: chain.check_rewards(helpers))
        return {
            "methods": (decoder,),
            "model": self._own_model(item, parts),
            "helpers": helpers,
            "data": {"prompts": self._table(parts["generate"], chain.reads)},
            "settings": settings,
            "seed": _seed(parts["seed"]) if "seed" in parts else self.seed,
        }

    def _compare(self, item: Located, parts: Mapping[str, Located]) -> dict[str, Any]:
        """What a compare step holds."""
        value = parts["compare"]
        if not isinstance(value.value, list) or len(value.value) != 2:
            raise value.error(f"'compare' must be [BEFORE, AFTER], got {_shown(value)}")
        return {"sides": [self._run_source(side, ("audit",)) for side in value.value]}

    def _report(self, item: Located, parts: Mapping[str, Located]) -> dict[str, Any]:
        """What a report step holds."""
        return {"sides": [self._run_source(parts["report"], ("audit", "align", "compare"))]}

    def _own_model(self, item: Located, parts: Mapping[str, Located]) -> Source:
        """The step's model, else the recipe's."""
        if "model" in parts:
            return self.model_source(parts["model"])
        if self.model is None:
            raise item.error("'model' is missing, here and at the top of the recipe")
        return self.model

    def _audit_data(
        self, item: Located, parts: Mapping[str, Located], names: list[str]
    ) -> dict[str, Source]:
        """Each audit's data: one file for all of them, or a mapping from name to file."""
        if "data" not in parts:
            raise item.error("'data' is missing")
        value = parts["data"]
        if not isinstance(value.value, dict):
            return dict.fromkeys(names, self._data_source(value))
        each = _mapping(value, "data", tuple(names))
        missing = [name for name in names if name not in each]
        if missing:
            raise value.error(f"'data' has no file for {missing[0]!r}")
        return {name: self._data_source(each[name]) for name in names}

    def _data_source(self, value: Located) -> Source:
        """A file, a data set folder, or a hub id."""
        text = _text(value, "data")
        path = self.folder / Path(text).expanduser()
        if path.exists():
            return Source(str(path))
        is_id = HUB_ID.fullmatch(text.partition(":")[0]) and not text.startswith((".", "~"))
        if is_id and not Path(text).suffix:
            return Source(text)
        raise value.error(f"no such file {text!r}, looked for at {path}")

    def _table(self, value: Located, contract: str) -> Source:
        """A data source that keeps its contract, read as a whole."""
        from trueup.data import read

        source = self._data_source(value)
        _checked(value, lambda: read(source.text, contract))
        return source

    def _run_source(self, value: Located, verbs: tuple[str, ...]) -> Source:
        """An earlier step of one of the verbs, or a run folder."""
        text = _text(value, "run")
        if text in self.steps:
            return self._made_by(value, text, verbs)
        path = self.folder / Path(text).expanduser()
        if (path / "run.json").is_file():
            return Source(str(path))
        raise value.error(self._missing("earlier step or run folder", text))

    def _made_by(self, value: Located, name: str, verbs: tuple[str, ...]) -> Source:
        """What an earlier step of one of the verbs makes."""
        verb = self.steps[name].verb
        if verb not in verbs:
            wanted = " or ".join(KINDS[each] for each in verbs)
            raise value.error(f"{wanted} is wanted here, but step {name!r} is of {verb!r}")
        return Source(name, step=name)

    def _missing(self, kind: str, text: str) -> str:
        """Words for a name that is nowhere."""
        if self.steps:
            return str(unknown_name(kind, text, self.steps))
        return f"no {kind} {text!r}, looked for at {self.folder / text}"


def _mapping(item: Located, kind: str, known: tuple[str, ...]) -> dict[str, Located]:
    """The parts of a mapping, none of them unknown."""
    if not isinstance(item.value, dict):
        raise item.error(f"{kind} must be a mapping, got {_shown(item)}")
    for name, part in item.value.items():
        if name not in known:
            text = str(unknown_name("key", name, known)).replace("no key", f"{kind} has no key")
            raise part.error(text)
    return item.value


def _check_needs(item: Located, objective: "Objective", given: Mapping[str, Any]) -> None:
    """Raise UserError where the step lacks what its objective needs, or has what it ignores."""
    from trueup.training.runner import check_given

    names = ("reward", "ranker", "teacher", "ref_teacher")
    try:
        check_given(
            objective,
            **{name: given.get(name) for name in names},
            eval_rows=given["eval_data"],
        )
    except UserError as error:
        keys = re.sub(r"--([a-z-]+)", lambda found: repr(found[1].replace("-", "_")), str(error))
        raise item.error(keys) from error


def _settings(
    parts: Mapping[str, Located],
    build: Callable[[Mapping[str, Any]], object],
    *,
    alone: bool = True,
) -> dict[str, Any]:
    """The settings under `set`, each tried alone, where that can be, and then all together."""
    if "set" not in parts:
        return {}
    value = parts["set"]
    if not isinstance(value.value, dict):
        raise value.error(f"'set' must be a mapping, got {_shown(value)}")
    given = {name: _as_words(part.plain()) for name, part in value.value.items()}
    for name, part in value.value.items() if alone else ():
        _checked(part, lambda name=name: build({name: given[name]}))  # type: ignore[misc]
    _checked(value, lambda: build(given))
    return given


def _as_words(value: Any) -> Any:
    """A value as the command line would give it, so that it is read as the field's type."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


def _checked(value: Located, build: Callable[[], object]) -> None:
    """Run a check of another module and put the line before what it says."""
    try:
        build()
    except UserError as error:
        raise value.error(str(error)) from error
    except TypeError as error:  # a list where one value belongs, or the other way round
        raise value.error(f"a value of the wrong type, got {_shown(value)}") from error


def _text(value: Located, name: str) -> str:
    """A text that is not empty."""
    if not isinstance(value.value, str) or not value.value.strip():
        raise value.error(f"{name!r} must be a text, got {_shown(value)}")
    return value.value


def _texts(value: Located, name: str) -> list[str]:
    """One text or a list of them."""
    if isinstance(value.value, list) and value.value:
        return [_text(item, name) for item in value.value]
    return [_text(value, name)]


def _seed(value: Located) -> int:
    """A whole number of at least 0."""
    number = value.value
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise value.error(f"'seed' must be a whole number of at least 0, got {_shown(value)}")
    return number


def _shown(value: Located) -> str:
    """A value for an error, shortened."""
    if isinstance(value.value, dict):
        return "a mapping"
    text = repr(value.plain())
    return text if len(text) <= 60 else f"{text[:57]}..."
