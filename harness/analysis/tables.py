"""The report's tables as CSV: every number as it was recorded or worked out, unrounded; what is missing is empty."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, fields
from typing import Any

from harness.analysis.equivalence import Equivalence
from harness.analysis.eval_lengths import positions
from harness.analysis.intervals import Mean, Median, Ratio
from harness.analysis.metrics import CATEGORIES
from harness.analysis.summary import Summary
from harness.results.records import PHASES
from harness.results.run_data import RunData

Row = list[Any]


def all_tables(summary: Summary) -> dict[str, str]:
    """Return the name and content of each file of tables/."""
    found = {
        "entries.csv": _entries(summary),
        "comparisons.csv": _comparisons(summary),
        "verdicts.csv": _verdicts(summary),
        "effects.csv": _effects(summary),
        "rankings.csv": _rankings(summary),
        "savings.csv": _savings(summary),
        "equivalence.csv": _equivalence(summary),
        "memory.csv": _memory(summary),
        "val_curves.csv": _val_curves(summary),
    }
    if summary.variance:
        found["variance.csv"] = _variance(summary)
    if any(summary.decoding.values()):
        found["decoding.csv"] = _decoding(summary)
    if any(summary.phases.values()):
        found["phases.csv"] = _phases(summary)
    if any(summary.traffic.values()):
        found["traffic.csv"] = _traffic(summary)
    if summary.scaling:
        found["scaling.csv"] = _scaling(summary)
    if any(summary.lengths.values()):
        found |= {
            "lengths.csv": _lengths(summary),
            "loss_by_position.csv": _loss_by_position(summary),
        }
    return found


def _csv(header: list[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if _missing(cell) else cell for cell in row] for row in rows)
    return text.getvalue()


def _missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and not math.isfinite(cell))


def _with_bounds(value: Mean | Median | Ratio | None) -> Row:
    """Return value, low, high."""
    if value is None:
        return [None, None, None]
    center = (
        value.mean
        if isinstance(value, Mean)
        else value.median
        if isinstance(value, Median)
        else value.ratio
    )
    return [center, *(value.ci95 or (None, None))]


def _names(measure: str) -> list[str]:
    return [measure, f"{measure}_low", f"{measure}_high"]


def _status(status: str | dict[str, int]) -> str:
    return (
        status if isinstance(status, str) else " ".join(f"{name}:{n}" for name, n in status.items())
    )


def _seeds(seeds: Iterable[int]) -> str:
    return " ".join(map(str, seeds))


def _entries(summary: Summary) -> str:
    header = ["entry", *summary.study.levels, "seeds", "seeds_done", "status", "equivalence"]
    for measure in ("val_loss", "bits_per_byte", "tokens_per_s", "step_s"):
        header += _names(measure)
    header += ["peak_memory_bytes", "parameters", "flops_per_token", "peak_flops", "mfu"]
    rows: list[Row] = []
    for r in summary.results.values():
        row = [
            r.label,
            *r.axes.values(),
            _seeds(r.seeds),
            _seeds(r.seeds_done),
            _status(r.status),
            r.equivalence,
        ]
        for value in (r.val_loss, r.bits_per_byte, r.tokens_per_s, r.step_s):
            row += _with_bounds(value)
        rows.append(
            [*row, r.peak_memory_bytes, r.parameters, r.flops_per_token, r.peak_flops, r.mfu]
        )
    return _csv(header, rows)


def _comparisons(summary: Summary) -> str:
    header = [
        "entry",
        "against",
        "differs",
        "seeds",
        "seeds_unpaired",
        *_names("val_loss_difference"),
        "excludes_zero",
    ]
    header += [*_names("tokens_per_s_ratio"), "speed_diverges", "peak_memory_ratio"]
    rows: list[Row] = []
    for c in summary.comparisons:
        row: Row = [c.label, c.against, " ".join(c.differs), _seeds(c.seeds), c.seeds_unpaired]
        row += [*_with_bounds(c.val_loss_difference), c.excludes_zero]
        rows.append(
            [*row, *_with_bounds(c.tokens_per_s_ratio), c.speed_diverges, c.peak_memory_ratio]
        )
    return _csv(header, rows)


def _verdicts(summary: Summary) -> str:
    numbers = ("p", "p_holm", "p_bh", "p_equivalent_holm", "effect_size", "seeds_to_resolve")
    rows = (
        [
            quantity,
            label,
            v.word,
            *_with_bounds(v.difference),
            v.difference.n,
            *(getattr(v, name) for name in numbers),
        ]
        for quantity, judged in summary.judgements.items()
        for label, v in judged.entries.items()
    )
    return _csv(["quantity", "entry", "word", *_names("difference"), "seeds", *numbers], rows)


def _effects(summary: Summary) -> str:
    rows = (
        [
            quantity,
            " ".join(f"{axis}={name}" for axis, name in one.levels.items()),
            level.word,
            one.estimate,
            one.se,
            *(one.ci95 or (None, None)),
            one.p,
            level.p_holm,
        ]
        for quantity, judged in summary.judgements.items()
        for level in (*judged.main, *judged.interactions)
        for one in (level.effect,)
    )
    header = [
        "quantity",
        "levels",
        "word",
        "estimate",
        "se",
        "estimate_low",
        "estimate_high",
        "p",
        "p_holm",
    ]
    return _csv(header, rows)


def _rankings(summary: Summary) -> str:
    rows = (
        [ranking.kind, ranking.budget, place, label, *_with_bounds(loss)]
        for ranking in summary.rankings
        for place, (label, loss) in enumerate(ranking.val_loss.items(), start=1)
    )
    return _csv(["kind", "budget", "place", "entry", *_names("val_loss")], rows)


def _savings(summary: Summary) -> str:
    rows = (
        [
            *(one.label, one.against, _seeds(one.seeds), _seeds(one.not_reached)),
            *(one.tokens, *(one.tokens_ci95 or (None, None))),
            *(one.train_s, *(one.train_s_ci95 or (None, None))),
        ]
        for one in summary.savings
    )
    return _csv(
        ["entry", "against", "seeds", "not_reached", *_names("tokens"), *_names("train_s")], rows
    )


def _variance(summary: Summary) -> str:
    rows = [
        [
            found.of,
            name,
            part.sd,
            *part.ci95,
            part.share,
            " ".join(found.entries),
            _seeds(found.seeds),
        ]
        for found in summary.variance
        for name, part in (("init", found.init), ("data", found.data), ("rest", found.rest))
    ]
    return _csv(["of", "source", *_names("sd"), "share", "entries", "seeds"], rows)


def _equivalence(summary: Summary) -> str:
    header = ["entry", *(field.name for field in fields(Equivalence)[1:])]
    return _csv(header, (astuple(row) for row in summary.equivalence))


def _memory(summary: Summary) -> str:
    names = [*CATEGORIES, "peak", "resident_peak"]
    rows = (
        [entry.label, run.seed, rank, *(getattr(memory, name) for name in names)]
        for entry in summary.study.entries
        for run in entry.done
        for rank, memory in enumerate(run.measured.memory)
    )
    return _csv(["entry", "seed", "rank", *names], rows)


def _phases(summary: Summary) -> str:
    names = [f"{phase}_s" for phase in PHASES]
    rows = (
        [entry.label, run.seed, rank, sample, *values]
        for entry in summary.study.entries
        if entry.label not in summary.diverging
        for run in entry.done
        for rank, times in enumerate(run.measured.phases)
        for sample, values in enumerate(zip(*(getattr(times, name) for name in names), strict=True))
    )
    return _csv(["entry", "seed", "rank", "sample", *names], rows)


def _traffic(summary: Summary) -> str:
    names = ["calls", "payload_bytes", "sent_bytes"]
    rows = (
        [entry.label, run.seed, rank, collective, *(getattr(of, name) for name in names), predicted]
        for entry in summary.study.entries
        for run in entry.done
        for predicted in [run.measured.predicted_bytes_sent]
        for rank, calls in enumerate(run.measured.traffic)
        for collective, of in calls.items()
    )
    return _csv(["entry", "seed", "rank", "collective", *names, "predicted_bytes_of_all"], rows)


def _scaling(summary: Summary) -> str:
    header = [
        "entry",
        "group",
        "world_size",
        *_names("tokens_per_s"),
        "against",
        "against_world_size",
        *_names("speedup"),
    ]
    rows: list[Row] = []
    for s in summary.scaling:
        row = [
            s.label,
            s.group,
            s.world_size,
            *_with_bounds(s.tokens_per_s),
            s.against,
            s.against_world_size,
        ]
        rows.append([*row, *_with_bounds(s.speedup), s.efficiency])
    return _csv([*header, "efficiency"], rows)


def _decoding(summary: Summary) -> str:
    measures = (
        "prefill_tokens_per_s",
        "decode_step_s",
        "decode_tokens_per_s",
        "decode_tokens_per_s_ratio",
    )
    names = [name for measure in measures for name in _names(measure)]
    rows = (
        [label, d.batch, d.context, _seeds(d.seeds)]
        + [cell for measure in measures for cell in _with_bounds(getattr(d, measure))]
        + [d.cache_bytes, d.reason]
        for label, found in summary.decoding.items()
        for d in found
    )
    return _csv(["entry", "batch", "context", "seeds", *names, "cache_bytes", "reason"], rows)


def _lengths(summary: Summary) -> str:
    measures = ("val_loss", "val_loss_difference")
    names = [name for measure in measures for name in _names(measure)]
    rows = (
        [label, at.length, _seeds(at.seeds)]
        + [cell for measure in measures for cell in _with_bounds(getattr(at, measure))]
        + [at.windows, at.reason]
        for label, found in summary.lengths.items()
        for at in found
    )
    return _csv(["entry", "length", "seeds", *names, "windows", "reason"], rows)


def _loss_by_position(summary: Summary) -> str:
    rows = (
        [entry.label, run.seed, length, first, last, loss]
        for entry in summary.study.entries
        for run in entry.done
        for length, at in sorted(run.lengths.items())
        for (first, last), loss in zip(
            positions(length, len(at.by_position)), at.by_position.tolist(), strict=True
        )
    )
    return _csv(["entry", "seed", "length", "first", "last", "loss"], rows)


def _runs(summary: Summary) -> Iterator[tuple[Row, RunData]]:
    for entry in summary.study.entries:
        for run in entry.runs:
            yield [entry.label, run.seed], run


def _val_curves(summary: Summary) -> str:
    header = ["entry", "seed", "step", "val_loss", "bits_per_byte", "train_s", "status"]
    rows = (
        [*who, int(step), *values, run.status]
        for who, run in _runs(summary)
        for step, *values in zip(
            run.evals.step.tolist(),
            run.evals.val_loss.tolist(),
            run.evals.bits_per_byte.tolist(),
            run.evals.train_s.tolist(),
            strict=True,
        )
    )
    return _csv(header, rows)
