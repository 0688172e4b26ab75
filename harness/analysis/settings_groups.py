"""Choose the settings that a report covers, of a study whose runs have several."""

from collections.abc import Callable, Iterator, Sequence

from harness.analysis.followed import FollowedStudy
from harness.analysis.selection import Selection
from harness.results.records import LaunchRecord, RunSpec
from harness.results.records.study_summary import SettingsGroup
from harness.results.run_data import RunData

MAX_DIFFERENCES = 8  # settings of a group that are listed

Age = Callable[[RunData], tuple[int, str]]  # sort key of runs, the oldest first


def age_key(launches: Sequence[LaunchRecord]) -> Age:
    """Return a sort key: the newest launch that asks for the run, then the time of its start."""
    launch_of: dict[str, int] = {}
    for i, launch in enumerate(launches):
        launch_of |= dict.fromkeys((*launch.order, *launch.not_started), i)
    return lambda run: (launch_of.get(run.run_id, -1), run.started_at or "")


def choose(
    runs: Sequence[RunData],
    launches: Sequence[LaunchRecord],
    following: FollowedStudy | None,
    selection: Selection,
) -> str:
    """Return the hash of the settings to report.

    They are those that the command selects, else the newest that agree with the study file, else
    the newest.

    Raises:
        UserError: the command selects settings that the study does not have.
    """
    age = age_key(launches)
    newest = _newest(runs, launches, age)
    selected = selection.choose_settings(list(newest), runs[0].spec.study)
    if selected is not None:
        return selected
    if following is not None:
        for settings_hash, run in newest.items():
            if following.agrees_with(run.spec):
                return settings_hash
    return next(iter(newest))


def _newest(
    runs: Sequence[RunData], launches: Sequence[LaunchRecord], age: Age
) -> dict[str, RunData]:
    """Return the newest run by settings hash, the settings of the newest launch first.

    The newest launch counts even if it started no run because all were done.
    """
    newest: dict[str, RunData] = {}
    for run in sorted(runs, key=age, reverse=True):
        newest.setdefault(run.spec.settings_hash, run)
    launched = dict.fromkeys(
        launch.settings_hash for launch in reversed(launches) if launch.settings_hash in newest
    )
    hashes = dict.fromkeys([*(str(known) for known in launched), *newest])
    return {settings_hash: newest[settings_hash] for settings_hash in hashes}


def groups(runs: Sequence[RunData], reported: str) -> tuple[SettingsGroup, ...]:
    """Return the runs by settings, the reported first; empty if all have the same."""
    by_hash: dict[str, list[RunData]] = {reported: []}
    for run in runs:
        by_hash.setdefault(run.spec.settings_hash, []).append(run)
    if len(by_hash) == 1:
        return ()
    shown = by_hash[reported][0]
    return tuple(
        SettingsGroup(
            settings_hash=settings_hash,
            runs=len(members),
            newest=max((run.started_at or "" for run in members), default="") or None,
            reported=settings_hash == reported,
            differs=list(_differences(members[0], shown))[:MAX_DIFFERENCES],
        )
        for settings_hash, members in by_hash.items()
    )


def _differences(run: RunData, other: RunData) -> Iterator[str]:
    """Yield the settings of a run that differ from another's, without those of its levels."""
    spec = run.spec
    base = other.spec
    if not isinstance(spec, RunSpec) or not isinstance(base, RunSpec):
        return
    varied = {
        key for choices in (spec.axes, base.axes) for c in choices.values() for key in c.options
    }
    for section in ("model", "data", "train", "probes"):
        values = getattr(spec, section).model_dump()
        others = getattr(base, section).model_dump()
        for name, value in values.items():
            key = f"{section}.{name}"
            if value != others.get(name) and key not in varied:
                yield f"{key} = {value} (reported: {others.get(name)})"
    if (spec.init is None) != (base.init is None):
        yield "init"
