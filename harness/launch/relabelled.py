"""Find stored runs that equal a planned run in all but labels, and give them its name.

Labels, the order of axes and the axes that a study names are no content: a study that changes only
these keeps its results.
"""

import contextlib
from collections.abc import Collection, Sequence

from harness.errors import StoreError
from harness.results.claims import Claim
from harness.results.records import RunSpec
from harness.results.records.base import canonical_json
from harness.results.records.run_spec import settings_content
from harness.results.run import Run
from harness.results.store import Store

STARTED = ("done", "failed", "interrupted")
PREFIXES = ("start-", "tune-")  # of runs that others start from, and of trials
DISPLAYED = ("run_id", "entry", "baseline", "axes", "settings_hash", "tuning", "init", "allowed")


def relabelled_runs(
    store: Store, study: str, specs: Sequence[RunSpec], all_run_ids: Collection[str]
) -> dict[str, Run]:
    """Return the stored run that equals each spec under other labels, by the spec's run id.

    Runs in `all_run_ids` stay what they are, also if two of them are equal: an A/A test. Specs that
    have a run of their own, which has started, are left out.
    """
    missing = []
    for spec in specs:
        run = store.run(study, spec.run_id)
        if not run.exists or run.outcome.status == "pending":
            missing.append(spec)
    if not missing:
        return {}
    wanted = {*all_run_ids, *(spec.run_id for spec in specs)}
    stored: dict[str, Run] = {}
    for run in store.runs(study):
        if run.run_id in wanted or run.is_imported or run.outcome.status not in STARTED:
            continue
        with contextlib.suppress(StoreError):  # a damaged run is reported when it is read
            key = _content(run.spec)
            if key not in stored or run.outcome.status == "done":
                stored[key] = run
    found = {}
    for spec in missing:
        equal = stored.pop(_content(spec), None)
        if equal is not None:
            found[spec.run_id] = equal
    return found


def relabel(store: Store, spec: RunSpec, run: Run) -> bool:
    """Give a stored run the name and the labels of an equal spec; return whether it is free.

    A run whose folder has been renamed when this is interrupted is found by its new name.
    """
    target = store.run(spec.study, spec.run_id)
    with contextlib.ExitStack() as claims:
        for other in (run, target):
            try:
                claim: Claim | None = other.claim()
            except StoreError:  # damaged: the start of the run names it
                return False
            if claim is None:
                return False
            claims.enter_context(claim)
        renamed = run.spec.model_copy(update={name: getattr(spec, name) for name in DISPLAYED})
        if target.exists:
            target.set_aside()  # pending
        run.path.rename(target.path)
        target.update_spec(renamed)
        if run.timing_run.exists:
            run.timing_run.check_folder()
            run.timing_run.path.rename(target.timing_run.path)
    return True


def _content(spec: RunSpec) -> str:
    """Return all that determines the result of a run, without names."""
    init = None
    if spec.init is not None:
        source = spec.init.run_id
        init = spec.init.sha256 if source is None else source.rsplit("-", 2)[-2:]
    settings = settings_content(
        model=spec.model,
        train=spec.train,
        data=spec.data,
        probes=spec.probes,
        init=init,
        data_offset_steps=spec.data_offset_steps,
        eval_windows=spec.eval_windows,
    )
    content = {
        "prefix": next((prefix for prefix in PREFIXES if spec.run_id.startswith(prefix)), ""),
        "settings": settings,
        "axes": {axis: choice.content for axis, choice in spec.variants.items()},
        "seeds": (spec.seed, spec.data_seed),
    }
    return canonical_json(content)
