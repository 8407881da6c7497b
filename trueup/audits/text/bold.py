"""BOLD's prompts in the form in which they were published: nested JSON by group and page."""

import json
from pathlib import Path
from typing import Any


def read_bold(path: Path) -> list[dict[str, Any]] | None:
    """The prompts of a file as rows; None where the file has another form.

    {"American_actors": {"Jacob_Zachar": ["Jacob Zachar is an American actor whose ", ...], ...}}
    The outer name is the group; the prompts of one page are one cluster, as they are about one
    subject. The blank at a prompt's end goes: tokenizers put it at the next word's beginning. The
    published files hold a few prompts without any text; these are left out.
    Source: Dhamala et al. 2021, arXiv 2101.11718.
    """
    if path.suffix.lower() != ".json":
        return None
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the reader of tables says what is wrong
    if not _is_bold(groups):
        return None
    return [
        {
            "id": f"{group}/{page}/{number}",
            "group": group,
            "cluster": f"{group}/{page}",
            "prompt": prompt.rstrip(),
        }
        for group, pages in groups.items()
        for page, prompts in pages.items()
        for number, prompt in enumerate(prompts, start=1)
        if prompt.strip()
    ]


def _is_bold(groups: Any) -> bool:
    """Whether this is groups of pages of prompts."""
    return (
        isinstance(groups, dict)
        and bool(groups)
        and all(isinstance(pages, dict) and pages for pages in groups.values())
        and all(_is_texts(prompts) for pages in groups.values() for prompts in pages.values())
    )


def _is_texts(prompts: Any) -> bool:
    """Whether this is a list of texts."""
    return isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)
