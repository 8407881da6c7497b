"""The completions of a run on its page: a block for each of the first prompts, a table of more."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from trueup.report import wording
from trueup.report.generation import ENDINGS, Completion, Completions
from trueup.report.pictures import NARROW, WIDE
from trueup.report.pool_pictures import is_piled_in_full, pool_label, pool_picture
from trueup.report.search_pictures import is_drawn_in_full, search_label, search_picture
from trueup.report.search_trace import Candidate, Step, Way, spans, steps_of, ways_of

MOST_BLOCKS = 8  # prompts that are shown whole
MOST_TURNS = 6  # of one prompt, the last ones
MOST_OTHERS = 7  # completions of such a prompt beside the best
MOST_LINES = 12  # of a table beside a picture
MOST_ROWS = 100  # completions of the other prompts
LONGEST_TURN, LONGEST_COMPLETION = 1000, 1500  # characters
LONGEST_CELL = 120
SIZES = {"wide": WIDE, "narrow": NARROW}

Row = dict[str, Any]


def generation_section(found: Completions | None) -> Row | None:
    """All that the page's own template shows of the completions."""
    if found is None or not found.rows:
        return None
    prompts = found.by_prompt()
    blocks = [_block(several, found) for several in prompts[:MOST_BLOCKS]]
    rest = [row for several in prompts[MOST_BLOCKS:] for row in several]
    return {
        "blocks": blocks,
        "kinds": {
            size: list(dict.fromkeys(kind for block in blocks for kind in block["kinds"][size]))
            for size in SIZES
        },
        "has_searches": any(block["is_search"] for block in blocks),
        "has_pools": any(block["picture"] and not block["is_search"] for block in blocks),
        "rest": [_line(row) for row in rest[:MOST_ROWS]],
        "n_rest": len(rest),
        "n_prompts": len(prompts),
        "has_scores": any(row.score is not None for row in rest),
    }


def _block(several: Sequence[Completion], found: Completions) -> Row:
    """One prompt with its completions and the picture of its search."""
    best = several[0]
    steps = steps_of(best.trace)
    chosen, others = ways_of(steps, best.text, best.score)
    has_picture = any(each.is_known for step in steps for each in step)
    is_search = has_picture and len(steps) > 1
    label = search_label(steps, chosen) if is_search else ""
    if has_picture and not is_search:
        label = pool_label(steps[0], chosen)
    return {
        "index": best.index,
        "turns": _turns(best.prompt),
        "completion": _shown(best.text, LONGEST_COMPLETION),
        "numbers": _numbers(best, found),
        "others": [_line(row) for row in several[1 : 1 + MOST_OTHERS]],
        "n_others": len(several) - 1,
        "is_search": is_search,
        "picture": _pictures(steps, chosen, others, label) if has_picture else None,
        "kinds": _kinds(steps, chosen) if has_picture else {"wide": [], "narrow": []},
        "caption": f"{label} {_unit_told(steps, found.settings, best)}".strip(),
        "lines": _step_lines(steps, chosen) if is_search else [],
        "pool": _pool(steps[0]) if has_picture and not is_search else None,
    }


def _turns(prompt: Any) -> list[Row]:
    """The prompt's parts with their names: text, messages, or documents between two texts."""
    if isinstance(prompt, Mapping):
        docs = prompt.get("docs") or []
        before, after = _turns(prompt.get("prefix") or []), _turns(prompt.get("suffix") or "")
        between = [_turn(f"document {n}", text) for n, text in enumerate(docs, start=1)]
        turns = [*before, *between, *after]
    elif isinstance(prompt, list):
        turns = [_turn(str(each.get("role")), str(each.get("content"))) for each in prompt]
    else:
        turns = [_turn("prompt", str(prompt))]
    left_out = len(turns) - MOST_TURNS
    if left_out <= 0:
        return turns
    told = {"name": "", "text": f"{wording.plural(left_out, 'earlier part')} not shown", "cut": 0}
    return [told, *turns[left_out:]]


def _turn(name: str, text: Any) -> Row:
    """One part of a prompt; of a long one the end, which the completion answers."""
    return {"name": name, **_shown(str(text), LONGEST_TURN, from_end=True)}


def _shown(text: str, longest: int, *, from_end: bool = False) -> Row:
    """A text with its lines, and how many characters of it were left out."""
    whole = wording.printable("\n".join(text.strip().splitlines()))
    cut = max(0, len(whole) - longest)
    part = whole[cut:] if from_end else whole[: len(whole) - cut]
    return {"text": _with_lines(part), "cut": cut, "at_start": from_end}


def _with_lines(text: str) -> Markup:
    """The text escaped, its line ends as references, which no clean-up of the page touches."""
    return Markup(escape(text).replace("\n", Markup("&#10;")))


def _numbers(row: Completion, found: Completions) -> list[tuple[str, str]]:
    """What there is to say of a completion in numbers."""
    has_score = row.score is not None and (found.has_own_score or not row.rewards)
    told = [("score", wording.number(row.score))] if has_score else []
    told += [(name, wording.number(value)) for name, value in row.rewards.items()]
    if row.n_tokens is not None:
        told.append(("tokens", wording.count(row.n_tokens)))
    return [*told, ("ended", ENDINGS.get(row.reason, row.reason or "unknown"))]


def _line(row: Completion) -> Row:
    """A completion in one line of a table."""
    prompt = row.prompt
    if isinstance(prompt, list):
        prompt = prompt[-1].get("content") if prompt else ""
    elif isinstance(prompt, Mapping):
        prompt = prompt.get("suffix", "")
    return {
        "index": row.index,
        "prompt": wording.plain_text(prompt, LONGEST_CELL),
        "text": wording.plain_text(row.text, LONGEST_CELL),
        "score": wording.number(row.score) if row.score is not None else "",
    }


def _pictures(
    steps: Sequence[Step], chosen: Way, others: Sequence[Way], label: str
) -> dict[str, Markup]:
    """The search for a desk and for a phone; texts are escaped where they are written."""
    return {
        name: Markup(
            pool_picture(steps[0], chosen, label, width)
            if len(steps) == 1
            else search_picture(steps, chosen, others, label, width)
        )
        for name, width in SIZES.items()
    }


def _kinds(steps: Sequence[Step], chosen: Way) -> dict[str, list[str]]:
    """What the marks of each picture are, for the legend."""
    has_more = sum(each.is_kept for step in steps for each in step) > len(chosen)
    found = {}
    for name, width in SIZES.items():
        if len(steps) == 1:
            is_full = is_piled_in_full(steps[0], width)
            kinds = ["dropped" if is_full else "bar", "kept" * has_more, "chosen" * bool(chosen)]
        elif is_drawn_in_full(steps, width):
            kinds = ["dropped", "way" * has_more, "chosen way" * bool(chosen)]
        else:
            kinds = ["range", "kept range" * has_more, "chosen way" * bool(chosen)]
        found[name] = [kind for kind in kinds if kind]
    return found


def _unit_told(steps: Sequence[Step], settings: Mapping[str, Any], best: Completion) -> str:
    """What one step of several adds, where that is known."""
    units = [
        fields["unit"]
        for fields in (settings.get("decoders") or {}).values()
        if fields.get("unit") in ("token", "segment")
    ]
    unit = units[0] if units else "token" if len(steps) == best.n_tokens else ""
    return f"A step is one {unit}." if unit and len(steps) > 1 else ""


def _step_lines(steps: Sequence[Step], chosen: Way) -> list[Row]:
    """The steps as a table, several in one line where there are many."""
    lines, before = [], ""
    for start, end in spans(len(steps), MOST_LINES):
        every = [each for step in steps[start:end] for each in step]
        scores = [each.score for each in every if each.is_known]
        on_way = [step for step in range(start, end) if step in chosen]
        last = steps[on_way[-1]][chosen[on_way[-1]]] if on_way else None
        lines.append(
            {
                "step": f"{start + 1:,}" + (f"\N{EN DASH}{end:,}" if end > start + 1 else ""),
                "considered": wording.count(len(every)),
                "kept": wording.count(sum(each.is_kept for each in every)),
                "scores": f"{wording.number(min(scores))} to {wording.number(max(scores))}"
                if scores
                else "undefined",
                "added": _added(before, last.text) if last else "",
                "score": wording.number(last.score) if last else "",
            }
        )
        before = last.text if last else before
    return lines


def _added(before: str, text: str) -> str:
    """What the text has more than the one before it."""
    shared = len(before) if text.startswith(before) else 0
    return wording.plain_text(text[shared:], LONGEST_CELL)


def _pool(pool: Step) -> Row:
    """The candidates of a pool as a table, the best first."""
    order = sorted(pool, key=lambda each: (not each.is_kept, -_sortable(each)))
    notes = list(dict.fromkeys(name for each in pool for name in each.notes))
    names = list(dict.fromkeys(name for each in pool for name in each.rewards))
    is_alone = all(list(each.rewards.values()) == [each.score] for each in pool)
    shown = [*([] if is_alone else names), *notes]
    return {
        "names": shown,
        "lines": [
            {
                "text": wording.plain_text(each.text, LONGEST_CELL),
                "is_kept": each.is_kept,
                "score": wording.number(each.score),
                "numbers": [
                    wording.number({**each.rewards, **each.notes}.get(name)) for name in shown
                ],
            }
            for each in order[:MOST_LINES]
        ],
        "n": len(pool),
    }


def _sortable(each: Candidate) -> float:
    """The score, the lowest of all where it is undefined."""
    return each.score if each.is_known else -math.inf
