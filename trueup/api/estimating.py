"""`trueup.api.estimating.estimate`: the numbers of a finished audit again, without its model."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trueup.api.audit_run import AuditRun, estimated
from trueup.errors import UserError

if TYPE_CHECKING:
    from trueup.audits.protocol import Audit

ALWAYS = ("level",)  # fields that no audit reads while it measures


def estimate(
    run: AuditRun | str | Path, *, out: str | Path | None = None, **settings: Any
) -> AuditRun:
    """Every number of an audit from its items alone; with the same settings, the same numbers.

    Fields: run is an audit or its folder; settings are fields that change no measurement: `level`,
            and those that an audit's class names in `estimating`; each goes to every audit that
            has the field; out is the run folder to write, which holds the items too.
    Raises: UserError where the folder holds no finished audit, a setting is no field, or one that
            measuring depends on.
    """
    before = run if isinstance(run, AuditRun) else AuditRun.open(run)
    audits = tuple(_changed(before, settings))
    estimates, notes = estimated(audits, before.tables)
    own = {note for each in before.audits for note in each.notes(before.tables[each.name])}
    others = [note for note in before.notes if note not in own]
    described = {each.name: asdict(cast(Any, each)) for each in audits}
    result = replace(
        before,
        audits=audits,
        estimates=estimates,
        notes=[*others, *notes],
        arguments={**before.arguments, "audits": described, **_source(before)},
        folder=None,
    )
    return result if out is None else result.save(out)


def _changed(run: AuditRun, settings: Mapping[str, Any]) -> "list[Audit]":
    """The run's audits with the settings.

    Raises: UserError where a setting is a field of none, or of one that measures by it.
    """
    from trueup.api.auditing import fields_of
    from trueup.audits import audit

    allowed = {each.name: _estimating(each) for each in run.audits}
    known = {name for names in allowed.values() for name in names}
    for setting in settings:
        if setting in known:
            continue
        owners = [each.name for each in run.audits if setting in fields_of(each)]
        if owners:
            raise UserError(
                f"{owners[0]}: {setting!r} changes what is measured; audit the model again with it"
            )
        told = "; ".join(f"{name} has {', '.join(names)}" for name, names in allowed.items())
        raise UserError(f"no audit of this run estimates by {setting!r}; {told}")
    return [
        audit(each, {key: value for key, value in settings.items() if key in allowed[each.name]})
        for each in run.audits
    ]


def _estimating(audit: "Audit") -> list[str]:
    """The fields of an audit that its measuring does not read."""
    from trueup.api.auditing import fields_of

    named = (*ALWAYS, *getattr(audit, "estimating", ()))
    return [field for field in fields_of(audit) if field in named]


def _source(run: AuditRun) -> dict[str, str]:
    """Where the items were measured."""
    return {} if run.folder is None else {"estimated_from": str(run.folder)}
