"""The sections of the page that hold results: tables with their figures, and what one must know to read them."""

from collections import Counter
from collections.abc import Iterable

from harness.analysis.dataset import Entry
from harness.analysis.decoding import Decoding
from harness.analysis.equivalence import N_FIRST, TOLERANCES, Equivalence, world_size
from harness.analysis.eval_lengths import LengthLoss
from harness.analysis.metrics import CATEGORIES, DIVERGES, PARALLELISM, Result
from harness.analysis.summary import Summary
from harness.report import formatting as cells
from harness.report.formatting import (
    MIB,
    NO_SPEED,
    NONE,
    deviation,
    difference,
    figures,
    join,
    mean,
    median,
    mib,
    percent,
    picture,
    ratio,
)
from harness.report.sections.parallelism import beyond, deviates, signed_percent

Captions = dict[str, str]  # of the figures that were drawn, by name
RULES = (
    "`±` is half the 95 % t interval of the mean over seeds. Throughput is tokens per step over the median time of the "
    "timed steps, the slowest rank's, warm-up left out; its interval is a bootstrap that draws seeds and then their "
    "steps, and from one seed tells nothing of what differs from run to run. Memory is the peak of the fullest rank. A "
    "run that is not done has no numbers."
)

INTERRUPTED = (
    "† A run of this entry was interrupted and went on, so that its steps were not timed in one go; the first ones "
    "after each gap are left out."
)


def results(summary: Summary, captions: Captions) -> str:
    """What each entry reached and what it cost."""
    if not summary.results:
        return ""
    header = [
        "entry",
        "runs",
        "val loss",
        "bits per byte",
        "tokens/s",
        "step, ms",
        "peak memory, MiB",
        "MFU",
    ]
    rows = [
        [
            entry.label,
            runs_cell(entry),
            mean(r.val_loss),
            mean(r.bits_per_byte),
            speed(r, median(r.tokens_per_s) + interrupted(entry)),
            speed(r, median(r.step_s, 1e3)),
            mib(r.peak_memory_bytes),
            speed(r, percent(r.mfu)),
            f"{r.parameters:,}",
        ]
        for entry, r in zip(summary.study.entries, summary.results.values(), strict=True)
    ]
    pictures = (picture(name, captions) for name in ("throughput_loss", "throughput"))
    note = INTERRUPTED if any(interrupted(entry) for entry in summary.study.entries) else ""
    return join(
        "## Results",
        cells.table([*header, "parameters"], rows, left=2),
        RULES,
        note,
        _mfu(summary),
        *pictures,
    )


def interrupted(entry: Entry) -> str:
    """Return the mark of an entry of which a run was interrupted."""
    return " †" if any(run.measured.resumed_at for run in entry.done) else ""


def speed(result: Result, cell: str) -> str:
    """Return the cell, or what stands for it where the entry trains another model than it says."""
    return NO_SPEED if result.equivalence == DIVERGES else cell


def runs_cell(entry: Entry) -> str:
    """Return how many runs are done, and how the others stand and why."""
    done = f"{len(entry.done)} of {len(entry.runs)} done"
    others = Counter(
        run.status + (f" ({run.reason})" if run.reason else "")
        for run in entry.runs
        if run.status != "done"
    )
    return "; ".join([done, *(f"{n} {status}" for status, n in sorted(others.items()))])


def _mfu(summary: Summary) -> str:
    sources: dict[str, list[float]] = {}
    for run in (run for entry in summary.study.entries for run in entry.done):
        peak = run.measured.peak_flops
        values = sources.setdefault(peak.source, [])
        values += [peak.value] if peak.value else []
    if not sources:
        return ""
    known = [
        f"{_range(values)} ({source})" if values else f"unknown ({source})"
        for source, values in sources.items()
    ]
    formula = "MFU = FLOPs per token × tokens per second ÷ peak FLOP/s of all the run's devices"
    return f"{formula}; peak: {'; '.join(known)}."


def _range(values: list[float]) -> str:
    low, high = f"{min(values) / 1e12:.3g}", f"{max(values) / 1e12:.3g}"
    return f"{low} TFLOP/s" if low == high else f"{low} to {high} TFLOP/s"


def equivalence(summary: Summary, captions: Captions) -> str:
    """Whether each parallelism trains the same model, and so whether its speed counts."""
    study = summary.study
    if len(study.levels.get(PARALLELISM, ())) < 2 and all(
        world_size(entry) == 1 for entry in study.entries
    ):
        return ""
    title = "## Does the parallelism change the result?"
    grouped: dict[str, list[Equivalence]] = {}
    for row in summary.equivalence:
        grouped.setdefault(row.entry, []).append(row)
    if not grouped:
        return join(title, "No two runs that differ in the parallelism alone are done yet.")
    header = [
        "entry",
        "against",
        "seeds",
        "verdict",
        f"loss, first {N_FIRST}",
        f"gradient norm, first {N_FIRST}",
    ]
    rows = [
        [
            label,
            next((row.against for row in group if row.against), NONE),
            f"{sum(row.verdict != 'not checked' for row in group)} of {len(group)}",
            summary.results[label].equivalence or NONE,
            deviation(_largest(row.max_rel_loss_dev_first5 for row in group)),
            deviation(_largest(row.max_rel_grad_norm_dev_first5 for row in group)),
            deviation(_largest(row.max_abs_loss_dev for row in group)),
            deviation(_largest(row.abs_val_loss_dev for row in group)),
            _all(row.initial_hash_equal for row in group),
            _all(row.ranks_agree for row in group),
        ]
        for label, group in grouped.items()
    ]
    tolerance = TOLERANCES[study.spec.train.precision if study.spec else "fp32"]
    text = (
        "Each run beside the one of the same seed that differs in the parallelism alone, and that one process trains "
        "where there is such a run. Before a speed counts, the parameters must start equal to the bit, loss and "
        f"gradient norm of the first {N_FIRST} steps agree within {tolerance.loss:.0e} and {tolerance.grad_norm:.0e} "
        "of their size (what the precision's rounding can do in that many steps; more where only what travels is "
        "rounded to bf16), and the ranks end with equal parameters. `bitwise`: every training loss is identical. "
        "`DIVERGES`: another model is trained, and no speed is shown. The numbers are the largest deviations over the "
        "seeds; of the whole curve and of the final validation loss in nats per token."
    )
    header += ["loss, whole curve", "final val loss", "same start", "ranks end equal"]
    return join(title, text, cells.table(header, rows, left=4), _reasons(summary.equivalence))


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _all(found: Iterable[bool | None]) -> str:
    answers = set(found)
    return "no" if False in answers else "not recorded" if None in answers else "yes"


def _reasons(rows: list[Equivalence]) -> str:
    """Tell why runs diverge or were not checked, those of one reason together."""
    of: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.reason:
            of.setdefault((row.verdict, row.reason), []).append(f"{row.entry}-s{row.seed}")
    return "\n".join(
        f"- {verdict}: {cells.escape(reason)}: {cells.listing(list(dict.fromkeys(runs)))}."
        for (verdict, reason), runs in of.items()
    )


def curves(summary: Summary, captions: Captions) -> str:
    """The loss curves."""
    names = ("val_loss_steps", "val_loss_time", "train_loss_steps", "train_loss_time")
    pictures = [picture(name, captions) for name in names]
    text = (
        "A name stands at the final loss of its line, or is led to it; dots go on from where a line ends. The "
        "beginning, where the loss is far higher, is cut off."
    )
    return join("## Loss curves", text, *pictures) if any(pictures) else ""


def lengths(summary: Summary, captions: Captions) -> str:
    """The loss of sequences of other lengths than the trained one, where the study asked for it."""
    asked = [(label, at) for label, found in summary.lengths.items() for at in found]
    if not asked:
        return ""
    trained = summary.study.spec.model.seq_len if summary.study.spec else 0
    text = (
        "The trained model's loss, nats per token, on sequences of each length; those of the training had "
        f"{trained:,} tokens. Every length has about as many tokens of the validation part, in windows that do not "
        "overlap and each begin without context, so that the tokens of longer ones have more to go by."
    )
    losses = _by_length([(label, at.length, _loss_cell(at)) for label, at in asked], trained)
    compared = [(label, at) for label, at in asked if at.val_loss_difference]
    differences = _by_length(
        [(label, at.length, difference(at.val_loss_difference)) for label, at in compared], trained
    )
    against = "The same less the baseline's, paired by seed, where both are defined, with the 95 % t interval:"
    pictures = (picture(name, captions) for name in ("length_loss", "position_loss"))
    parts = (
        text,
        losses,
        _undefined(asked),
        *((against, differences) if compared else ()),
        *pictures,
    )
    return join("## Longer and shorter sequences", *parts)


def _by_length(found: list[tuple[str, int, str]], trained: int) -> str:
    """Return a table with a row for each entry and a column for each length."""
    columns = sorted({length for _, length, _ in found})
    rows: dict[str, dict[int, str]] = {}
    for label, length, cell in found:
        rows.setdefault(label, {})[length] = cell
    header = [
        "entry",
        *(f"{length:,}" + (" (trained)" if length == trained else "") for length in columns),
    ]
    return cells.table(
        header,
        [[label, *(row.get(length, NONE) for length in columns)] for label, row in rows.items()],
    )


def _loss_cell(at: LengthLoss) -> str:
    some = f" (of {cells.count(len(at.seeds), 'seed')})" if at.seeds and at.reason else ""
    return mean(at.val_loss) + some if at.val_loss else "not defined"


def _undefined(asked: list[tuple[str, LengthLoss]]) -> str:
    """Tell for what reasons a loss is not defined, and of which entries."""
    labels: dict[str, list[str]] = {}
    for label, at in asked:
        if at.reason and label not in labels.setdefault(at.reason, []):
            labels[at.reason].append(label)
    return "\n".join(
        f"- Not defined, {cells.escape(reason)}: {cells.listing(of)}."
        for reason, of in labels.items()
    )


def costs(summary: Summary, captions: Captions) -> str:
    """Memory by category, and the arithmetic that was counted."""
    measured = [r for r in summary.with_results if r.memory]
    if not measured:
        return ""
    header = ["entry", *CATEGORIES, "peak", "resident peak"]
    keys = [*CATEGORIES, "peak", "resident_peak"]
    rows = [[r.entry, *(mib((r.memory or {}).get(key)) for key in keys)] for r in measured]
    predicted = _predicted(summary)
    text = (
        "MiB of the fullest rank. On CUDA the peak is the allocator's; on a CPU it is the sum of the categories, which "
        "are counted from the tensors, and the resident peak, which holds the whole process, stands beside it."
    )
    return join(
        "## Memory",
        text,
        cells.table(header, rows),
        *predicted,
        picture("memory", captions),
        _arithmetic(summary),
    )


def _predicted(summary: Summary) -> list[str]:
    """Return what theory predicts that the fullest rank holds between steps, beside what it does hold."""
    found = {label: held for label, held in summary.predicted_memory.items() if held}
    if not found:
        return []
    text = (
        "By theory a rank holds its share of the parameters and of the gradients, 4 bytes each, and of Adam's two "
        "states. Predicted, MiB, and how much more there is:"
    )
    names = list(next(iter(found.values())).predicted)
    rows = [
        [
            label,
            *(
                cell
                for name in names
                for cell in (mib(held.predicted[name]), signed_percent(held.deviation[name]))
            ),
        ]
        for label, held in found.items()
    ]
    off = [label for label, held in found.items() if any(map(beyond, held.deviation.values()))]
    header = ["entry", *(cell for name in names for cell in (name, "deviation"))]
    return [text, cells.table(header, rows), deviates(off, "hold other amounts")]


def _arithmetic(summary: Summary) -> str:
    header = [
        "entry",
        "attention kernels",
        "FLOPs per token, by formula",
        "as counted",
        "counted ÷ formula",
    ]
    rows = []
    for entry in (entry for entry in summary.study.entries if entry.done):
        probes = entry.done[0].measured
        formula, counted = probes.flops_per_token, probes.flops_per_token_counted
        kernels = sorted(
            {kernel for run in entry.done for kernel in run.measured.attention_kernels}
        )
        numbers = [f"{formula:.4g}", f"{counted:.4g}" if counted else NONE]
        rows.append(
            [
                entry.label,
                ", ".join(kernels) or NONE,
                *numbers,
                f"{counted / formula:.3f}" if counted else NONE,
            ]
        )
    text = (
        "The formula counts what the variant needs, the counter what was executed: a ratio above 1 is work that the "
        "kernel does and the variant does not need."
    )
    return join("## Arithmetic", text, cells.table(header, rows, left=2))


def decoding(summary: Summary, captions: Captions) -> str:
    """What prefill and decoding take, and the size of the cache, where the study asked for it."""
    header = [
        "entry",
        "seeds",
        "batch",
        "context",
        "prefill, tokens/s",
        "decode, ms per token",
        "decode, tokens/s",
    ]
    rows = [
        [
            label,
            _seeds_cell(d),
            f"{d.batch:,}",
            f"{d.context:,}",
            median(d.prefill_tokens_per_s),
            median(d.decode_step_s, 1e3),
            median(d.decode_tokens_per_s),
            ratio(d.decode_tokens_per_s_ratio),
            NONE if d.cache_bytes is None else figures(d.cache_bytes / MIB),
        ]
        for label, found in summary.decoding.items()
        for d in found
    ]
    if not rows:
        return ""
    text = (
        "Prefill takes the prompt, `context` tokens of each of `batch` sequences, in one pass; decoding then adds one "
        "token to every sequence, with that many positions in the cache, the new one included. The cache is what is "
        "allocated for the keys and values of all layers and all sequences. Times are medians, their intervals a "
        "bootstrap that draws seeds and then their samples; × is over the baseline, from the same seeds."
    )
    if len(summary.study.levels.get(PARALLELISM, ())) > 1:
        text += (
            " All is measured on one device with the whole machine's threads, whatever the parallelism: entries that "
            "differ in it alone measure the same."
        )
    pictures = (picture(name, captions) for name in ("decode_time", "decode_cache"))
    return join(
        "## Decoding",
        text,
        cells.table([*header, "tokens/s ×", "cache, MiB"], rows, left=2),
        *pictures,
    )


def _seeds_cell(found: Decoding) -> str:
    undefined = f"not defined: {found.reason}" if found.reason else ""
    return "; ".join(filter(None, [str(len(found.seeds) or ""), undefined]))
