"""Write the parts of the documentation that are made from the code and the catalogue.

A page holds a pair of markers, `<!-- generated: NAME -->` and `<!-- end of NAME -->`; what stands
between them is written here. `--check` writes nothing and fails where a page is stale.
"""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from trueup import catalog
from trueup.catalog import Entry
from trueup.taxonomies import NAMES, Node, load

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(
    r"(?P<open><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end of (?P=name) -->)", re.S
)


def main() -> int:
    """Bring every page up to date, or say which ones are not."""
    is_check = sys.argv[1:] == ["--check"]
    stale = []
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = MARKED.sub(lambda found: found["open"] + block(found["name"]) + found["end"], old)
        if new == old:
            continue
        stale.append(page.relative_to(ROOT))
        if not is_check:
            page.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path}: stale; run `make docs`" if is_check else f"{path}: written")
    return int(is_check and bool(stale))


def block(name: str) -> str:
    """The generated text of one name, with an empty line at either end."""
    return f"\n{BLOCKS[name]().strip()}\n\n"


def proven() -> str:
    """What is proven, by stage, for the front page."""
    entries = [entry for entry in catalog.load(base=True) if entry.status == "proven"]
    stages = dict.fromkeys(entry.stage for entry in entries)
    rows = []
    for stage in sorted(stages):
        own = [entry for entry in entries if entry.stage == stage]
        names = ", ".join(f"[`{e.name}`]({e.proof[0]})" for e in own)
        rows.append((stage, str(len(own)), names))
    return _table(("stage", "", "methods, each with its proof"), rows)


def papers() -> str:
    """All numbered papers."""
    rows = [
        (str(e.number), _names(e), _paper(e), e.kind, e.stage, e.modality, e.status)
        for e in catalog.load()
    ]
    return _table(("", "name", "paper", "kind", "stage", "modality", "status"), rows)


def base() -> str:
    """The methods that have no number."""
    entries = [entry for entry in catalog.load(base=True) if entry.number is None]
    rows = [(_names(e), _paper(e), e.kind, e.stage, e.status) for e in entries]
    return _table(("name", "paper", "kind", "stage", "status"), rows)


def taxonomies() -> str:
    """Every survey's tree as nested lists, a gap as a dash."""
    entries = catalog.load(base=True)
    proven = {name for entry in entries if entry.status == "proven" for name in entry.names}
    parts = []
    for tree in map(load, NAMES):
        link = f"https://arxiv.org/abs/{tree.source.rsplit(maxsplit=1)[-1]}"
        counts = f"leaves: {len(tree.leaves)}, gaps: {len(tree.gaps())}"
        parts.append(
            f"## {tree.name}\n\n{tree.title}; {counts}. [{tree.source}]({link}). {tree.note}"
        )
        parts.append("\n".join(line for node in tree.children for line in _branch(node, proven)))
    return "\n\n".join(parts)


def objectives() -> str:
    """One section for each training objective, from its docstring and its fields."""
    from trueup.objectives import OBJECTIVES

    return _sections(OBJECTIVES, _objective_facts)


def audits() -> str:
    """One section for each audit, from its docstring, its fields and its metrics."""
    from trueup.audits import AUDITS

    return _sections(AUDITS, _audit_facts)


def decoders() -> str:
    """One section for each decoder, from its docstring and its fields."""
    from trueup.decoding import DECODERS

    return _sections(DECODERS, _decoder_facts)


def decoder_table() -> str:
    """What each decoder is, needs and costs."""
    from trueup.api.guide import decoder_guides

    rows = [
        (
            f"[`{g.name}`](decoders.md#{g.name})",
            g.role,
            g.summary,
            ", ".join(g.needs) or "-",
            g.cost,
        )
        for g in decoder_guides()
    ]
    return _table(("decoder", "stands", "what it does", "needs", "costs"), rows)


def commands() -> str:
    """The help of every verb, as a terminal of 80 columns shows it."""
    overview = _help()
    verbs = re.findall(r"^ {2}(\w[\w-]*) {2,}\S", overview.split("Commands:")[-1], re.M)
    parts = [f"```text\n{overview}\n```"]
    parts += [f"## {verb}\n\n```text\n{_help(verb)}\n```" for verb in verbs]
    return "\n\n".join(parts)


BLOCKS: Mapping[str, Callable[[], str]] = {
    "proven": proven,
    "papers": papers,
    "base": base,
    "taxonomies": taxonomies,
    "objectives": objectives,
    "audits": audits,
    "decoders": decoders,
    "decoder-table": decoder_table,
    "commands": commands,
}


def _branch(node: Node, proven: Collection[str], depth: int = 0) -> Iterable[str]:
    """A place of a taxonomy and all below it, one list item each."""
    names = [f"`{name}`" + ("" if name in proven else " (planned)") for name in node.methods]
    here = ", ".join(names) or ("" if node.children else "-")
    title = f"\\+ {node.title}" if node.is_added else node.title
    line = f"{'    ' * depth}- {title}"
    if here:
        line += f": {here}"
    facts = [*_metric_facts(node), *_dataset_facts(node), *([node.note] if node.note else [])]
    yield "; ".join([line, *facts])
    for child in node.children:
        yield from _branch(child, proven, depth + 1)


def _metric_facts(node: Node) -> Iterable[str]:
    """How to read the number of a metric."""
    if node.metric:
        yield f"neutral {node.metric.neutral}, range {node.metric.range}, {node.metric.sign}"
        yield f"n counts: {node.metric.item}; needs {node.metric.needs}"


def _dataset_facts(node: Node) -> Iterable[str]:
    """Size, licence, harms and groups of a dataset."""
    if node.dataset:
        data = node.dataset
        yield f"{data.size:,} {data.unit} ({data.size_source}), {data.licence}"
        yield f"harms: {', '.join(data.harms)}; groups: {', '.join(data.groups) or 'none named'}"


def _sections(
    registry: Mapping[str, type[Any]], facts: Callable[[type[Any]], Iterable[str]]
) -> str:
    """A heading, the first sentence, facts as a list, then the rest of the docstring verbatim."""
    known = {entry.name: entry for entry in catalog.load(base=True)}
    parts = []
    for name, cls in registry.items():
        summary, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
        lines = [f"## {name}", "", " ".join(summary.split()), "", *facts(cls), *_settings(cls)]
        if name in known:
            lines.append(f"- paper: {_paper(known[name])}; {known[name].status}")
            if known[name].proof:
                lines.append(f"- proof: {_proofs(known[name], '')}")
        if rest:
            lines += ["", "```text", rest, "```"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _objective_facts(cls: type[Any]) -> Iterable[str]:
    """What data and what else an objective needs."""
    needs = [
        field.name for field in dataclasses.fields(cls.needs) if getattr(cls.needs, field.name)
    ]
    yield f"- data: `{cls.data}`; needs: {', '.join(needs) or 'nothing else'}"


def _decoder_facts(cls: type[Any]) -> Iterable[str]:
    """Where a decoder stands in a chain, and what it needs."""
    from trueup.api.guide import decoder_guides

    needs = next(guide.needs for guide in decoder_guides() if guide.name == cls.name)
    yield f"- stands: {cls.role}; needs: {', '.join(needs) or 'nothing else'}"


def _audit_facts(cls: type[Any]) -> Iterable[str]:
    """The metrics of an audit with their ideal values, and what its calibration found."""
    from trueup.calibration.known import facts_of

    for metric in cls().metrics:
        ideal = "none" if metric.ideal is None else f"{metric.ideal:g}"
        told = f" - {metric.reading}" if metric.reading else ""
        yield (
            f"- metric `{metric.name}`: ideal {ideal}, better: {metric.goal}, a {metric.kind}{told}"
        )
    yield from (f"- {fact}" for fact in facts_of(cls.name))


def _settings(cls: type[Any]) -> Iterable[str]:
    """The fields that `--set` reaches, with their defaults."""
    fields = [field for field in dataclasses.fields(cls) if field.init]
    if fields:
        yield "- settings: " + ", ".join(f"`{_setting(field)}`" for field in fields)


def _setting(field: dataclasses.Field[Any]) -> str:
    """A field as `--set` takes it."""
    value = field.default
    return field.name if value is dataclasses.MISSING else f"{field.name}={value}"


def _help(*words: str) -> str:
    """The help of one verb, without colours and independent of the terminal."""
    plain = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "trueup", *words, "--help"]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def _names(entry: Entry) -> str:
    """All names, the registered one first."""
    return ", ".join(f"`{name}`" for name in entry.names)


def _paper(entry: Entry) -> str:
    """The title, linked to arXiv where the paper is there."""
    if not entry.arxiv:
        return entry.title
    return f"[{entry.title}](https://arxiv.org/abs/{entry.arxiv}) ({entry.year})"


def _proofs(entry: Entry, root: str) -> str:
    """The proof files as links from `root`."""
    return ", ".join(f"[{Path(path).name}]({root}{path})" for path in entry.proof)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
