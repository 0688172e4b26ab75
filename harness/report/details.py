"""The details of runs: a page for each candidate, `details/<entry>.html`, without a script."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import NDArray

from harness.analysis.candidates import Candidate, find_candidates
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.render.templating import content_security_policy, new_environment
from harness.results.files import write_text
from harness.results.run import Run
from harness.results.run_data import RunData

FOLDER = "details"
MAX_PAGES = 60  # candidates, the best first; those with a failed run have a page as well
MAX_NAME = 150  # bytes of the name of a page
MAX_RUNS = 100  # on a page
LOG_LINES = 40
MAX_LINE = 500  # characters of a line of the log
MAX_POINTS = 200  # of a curve
WIDTH, HEIGHT = 320.0, 120.0  # of a curve, pixels


@dataclass(frozen=True)
class Curve:
    """A small line chart: its points in pixels, and the ranges that it covers."""

    title: str
    unit: str
    lines: list[tuple[str, str]]  # name, points
    low: float
    high: float
    last_step: int


@dataclass(frozen=True)
class RunDetails:
    """The content of a run on the page."""

    run: RunData
    title: str
    curves: list[Curve]
    facts: list[tuple[str, str]]
    log: str
    spec: str


def write(summary: Summary, folder: Path) -> None:
    """Write the pages of a report's candidates to `folder/details`, and remove others there."""
    template = new_environment().get_template("details.html.j2")
    written = set()
    is_limited = len(find_candidates(summary.study)) > MAX_PAGES
    limit = MAX_PAGES if is_limited else 0
    for candidate in shown_candidates(summary):
        path = folder / page_name(candidate.main.label)
        runs = _runs(candidate)
        shown = [_details(summary, run) for run in runs[:MAX_RUNS]]
        page = template.render(
            study=summary.study.name,
            title=candidate.title or candidate.main.title,
            runs=shown,
            n_runs=len(runs),
            limit=limit,
            policy=content_security_policy(),
        )
        write_text(path, page)
        written.add(path)
    for path in (folder / FOLDER).glob("*.html"):
        if path not in written:
            path.unlink()


def page_name(label: str) -> str:
    """Return the path of the page of a candidate's main entry, relative to the report."""
    name = re.sub(r"[^\w.+=-]", "_", label)
    if name != label or len(name.encode()) > MAX_NAME:
        digest = hashlib.sha256(label.encode()).hexdigest()[:8]
        name = f"{name.encode()[:MAX_NAME].decode(errors='ignore')}-{digest}"
    return f"{FOLDER}/{name}.html"


def links(summary: Summary) -> dict[str, str]:
    """Return the link of each entry that has details: to its page, and to its first run there."""
    found = {}
    for candidate in shown_candidates(summary):
        page = quote(page_name(candidate.main.label))
        shown = [run.run_id for run in _runs(candidate)[:MAX_RUNS]]
        for entry in candidate.entries:
            own = {run.run_id for run in entry.runs}
            first = next((run_id for run_id in shown if run_id in own), None)
            found[entry.label] = page if first is None else f"{page}#{first}"
    return found


def shown_candidates(summary: Summary) -> list[Candidate]:
    """Return the candidates that have a page: the best, and all with a failed run."""
    candidates = find_candidates(summary.study)
    order = {row.entry: i for i, row in enumerate(summary.answer.rows)} if summary.answer else {}
    candidates.sort(key=lambda one: order.get(one.main.label, len(order)))
    first = candidates[:MAX_PAGES]
    others = [one for one in candidates[MAX_PAGES:] if _has_failed(one)]
    return [*first, *others[:MAX_PAGES]]


def _runs(candidate: Candidate) -> list[RunData]:
    """Return the runs of a candidate's page; what went wrong comes first."""
    runs = [run for entry in candidate.entries for run in (*entry.runs, *entry.crossed)]
    return sorted(runs, key=lambda run: run.status != "failed")


def _has_failed(candidate: Candidate) -> bool:
    return any(run.status == "failed" for entry in candidate.entries for run in entry.runs)


def _details(summary: Summary, run: RunData) -> RunDetails:
    log = run.log_tail
    if summary.study.folder:
        log = Run(Path(summary.study.folder) / run.run_id).log_tail(LOG_LINES)
    spec = orjson.dumps(run.spec.model_dump(), option=orjson.OPT_INDENT_2).decode()
    return RunDetails(
        run=run,
        title=f"{summary.study.entry_title(run.spec.entry)}, seed {run.spec.seed_name}",
        curves=list(_curves(run)),
        facts=list(_facts(summary, run)),
        log="\n".join(line[:MAX_LINE] for line in log),
        spec=spec,
    )


def _curves(run: RunData) -> Iterator[Curve]:
    steps = run.steps
    evals = run.evals
    losses = [
        ("training", steps.step + 1, steps.loss),
        ("validation", evals.step, evals.val_loss),
    ]
    loss = _curve("Loss", "nats per token", losses)
    if loss is not None:
        yield loss
    time = _curve("Step time", "seconds", [("step", steps.step + 1, steps.step_s)])
    if time is not None:
        yield time


def _curve(
    title: str,
    unit: str,
    series: list[tuple[str, NDArray[np.int64], NDArray[np.float64]]],
) -> Curve | None:
    """Return a chart of these series; None without a finite value.

    Its ends are the 1st and 99th percentile of all values, at which others are drawn.
    """
    thinned = []
    for name, step, value in series:
        is_finite = np.isfinite(value)
        step, value = step[is_finite], value[is_finite]
        stride = max(1, -(-len(step) // MAX_POINTS))
        kept = np.arange(len(step) - 1, -1, -stride)[::-1]  # with the last
        if len(step):
            thinned.append((name, step[kept], value[kept]))
    if not thinned:
        return None
    values = np.concatenate([value for _, _, value in thinned])
    low, high = (float(end) for end in np.percentile(values, [1, 99]))
    last_step = max(int(step[-1]) for _, step, _ in thinned)
    lines = []
    for name, step, value in thinned:
        x = step / max(last_step, 1) * WIDTH
        y = HEIGHT - (np.clip(value, low, high) - low) / ((high - low) or 1.0) * HEIGHT
        lines.append((name, " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))))
    return Curve(title, unit, lines, low, high, last_step)


def _facts(summary: Summary, run: RunData) -> Iterator[tuple[str, str]]:
    """Yield the known values of a run with their names."""
    if run.status == "done":
        yield "validation loss", f"{run.final_loss:.4f} nats per token"
    if len(run.timed_step_s):
        yield "step time", f"{float(np.median(run.timed_step_s)):.4g} s (median of timed steps)"
    if run.started_at:
        yield "started", run.started_at
    if run.ended_at:
        yield "ended", run.ended_at
    launch = next(
        (one for one in reversed(summary.study.launches) if run.run_id in one.order), None
    )
    if launch is not None and launch.command is not None:
        yield "launch", f"{launch.at}: {launch.command}"
    for rank, memory in enumerate(run.memory):
        categories = ", ".join(
            f"{name} {value / 2**20:,.1f}"
            for name, value in memory.model_dump().items()
            if isinstance(value, int | float) and name != "rank"
        )
        yield f"memory of rank {rank}, MiB", categories
    for rank, phases in enumerate(run.phases):
        known = [f"{name} {value:.4g}" for name, value in phases.items() if value is not None]
        yield f"phases of rank {rank}, s", ", ".join(known)
    for rank, samples in enumerate(run.probes.phases if run.probes else []):
        if samples.data_wait is not None:
            yield f"wait for data of rank {rank}", formatting.percent(samples.data_wait)
    if run.env is not None:
        for name, value in run.env.model_dump(exclude={"schema_version"}).items():
            if value not in (None, []):
                yield name.replace("_", " "), str(value)
