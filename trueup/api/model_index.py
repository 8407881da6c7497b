"""An audit's numbers as a model card's metadata: the `model-index` of the Hugging Face hub."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.api.audit_run import AuditRun
from trueup.errors import UserError
from trueup.files import plain

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from trueup.stats import Estimate


def model_index(
    run: AuditRun | str | Path,
    *,
    name: str | None = None,
    task: str = "text-generation",
    slices: bool = False,
) -> str:
    """The YAML that belongs between the lines `---` of a model card.

    Every number keeps its interval: `name` reads "share 0.609 [0.583, 0.634], n=1508", and `args`
    hold metric, slice, low, high, level, n, ideal and method.
    Fields: run is an audit or its folder; name is the model's, by default its folder's; task is the
            hub's word for what the model does; slices adds every slice to the totals.
    Edges:  a number that is undefined is left out, and so is a bound.
    Raises: UserError where the folder holds no finished audit, or no number is defined.
    """
    from huggingface_hub import ModelCardData

    audited = run if isinstance(run, AuditRun) else AuditRun.open(run)
    results = [
        _result(estimate, audited, task)
        for estimate in audited.estimates
        if (slices or estimate.slice == "all") and not math.isnan(estimate.value)
    ]
    if not results:
        raise UserError(f"{audited!r}: no number is defined; a model card has nothing to show")
    shown = name or Path(audited.model).name
    card: Any = ModelCardData(model_name=shown, eval_results=results)
    yaml: str = card.to_yaml()
    return yaml


def _result(estimate: "Estimate", run: AuditRun, task: str) -> "EvalResult":
    """One number in the hub's words; the data file is the dataset, the hash says which."""
    from huggingface_hub import EvalResult

    source = run.data[run.names.index(estimate.audit)]
    part = "" if estimate.slice == "all" else f", {estimate.slice}"
    told = estimate.as_dict()
    wanted = ("metric", "slice", "low", "high", "level", "n", "ideal", "method")
    return EvalResult(
        task_type=task,
        dataset_type=estimate.audit,
        dataset_name=f"{estimate.audit} ({Path(source).name})",
        dataset_args={"data_hash": run.data_hash},
        metric_type=estimate.metric,
        metric_value=estimate.value,
        metric_name=f"{estimate.metric}{part} {estimate.numbers()}, n={estimate.n}",
        metric_args=plain({key: told[key] for key in wanted}),
    )
