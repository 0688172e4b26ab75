"""The report for people: report.md, section by section, from what `summary` worked out."""

import math
from collections import Counter

from harness.analysis.dataset import Study
from harness.analysis.metrics import DIVERGES
from harness.analysis.summary import Summary
from harness.report import formatting as cells
from harness.report.formatting import count, escape, mean, median
from harness.report.sections import appendix
from harness.report.sections import comparison as sections
from harness.report.sections import parallelism as spread
from harness.report.sections import summary as answers


def render(summary: Summary, captions: dict[str, str]) -> str:
    """Return report.md; `captions` name the figures that there are."""
    parts = (
        sections.results,
        answers.verdicts,
        answers.effects,
        answers.rankings,
        answers.variance,
        sections.equivalence,
        sections.curves,
        sections.lengths,
        spread.phases,
        spread.traffic,
        spread.scaling,
        sections.costs,
        sections.decoding,
        appendix.unfinished,
        appendix.machine,
        appendix.start,
        appendix.settings,
        appendix.launches,
    )
    return cells.join(_opening(summary), *(part(summary, captions) for part in parts)) + "\n"


def _opening(summary: Summary) -> str:
    return cells.join(f"# {summary.study.name}", answers.in_short(summary), state(summary))


def state(summary: Summary) -> str:
    """Return how far the study is, who leads, on which corpus, and what one must beware of."""
    study = summary.study
    return cells.join(_in_short(summary), _corpus(study), _diverging(summary), *_warnings(study))


def _in_short(summary: Summary) -> str:
    study, with_results = summary.study, summary.with_results
    statuses = Counter(run.status for run in study.runs)
    runs = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items()))
    text = f"{count(len(study.entries), 'entry', 'entries')} in {count(len(study.runs), 'run')}: {runs or 'none'}."
    sound = [r for r in with_results if r.equivalence != DIVERGES] or with_results
    complete = [r for r in sound if r.seeds_done == r.seeds] or sound
    if not complete:
        return text + " Nothing is done yet, so there are no numbers."
    best = min(complete, key=lambda r: round(r.val_loss.mean, 4) if r.val_loss else math.inf)
    text += f" Lowest final validation loss: `{best.label}`, {mean(best.val_loss)} nats per token."
    timed = [r for r in complete if r.tokens_per_s]
    if timed:
        fastest = max(timed, key=lambda r: r.tokens_per_s.median if r.tokens_per_s else 0)
        text += f" Highest throughput: `{fastest.label}`, {median(fastest.tokens_per_s)} tokens per second."
    if len(complete) > 1:
        text += " Whether such a lead is more than chance is a question for the paired differences below."
    return text


def _corpus(study: Study) -> str:
    data = study.spec.get("data")
    if not data:
        return ""
    text = f"Corpus: `{data['corpus']}` (SHA-256 `{data['sha256'][:12]}…`), tokenizer `{data['tokenizer']}`."
    entropy = data.get("entropy_nats_per_byte")
    if entropy is not None:
        text += (
            f" It is generated, so the lowest validation loss reachable is known: {entropy:.4f} nats per byte, "
            f"{entropy / math.log(2):.4f} bits per byte. Where the study file names another corpus, this one stands in."
        )
    return text


def _diverging(summary: Summary) -> str:
    labels = sorted(summary.diverging)
    if not labels:
        return ""
    verb = (
        "trains another model than it says"
        if len(labels) == 1
        else "train other models than they say"
    )
    return f"> {cells.listing(labels)} {verb} (see below, on the parallelism): no speed is shown."


def _warnings(study: Study) -> list[str]:
    notes = []
    if study.left_out:
        runs = count(study.left_out, "run")
        settings = "settings (model, data, training or start)"
        notes.append(f"> {runs} of other {settings} left out; this is the newest launch's.")
    if study.superseded:
        notes.append(
            f"> {count(study.superseded, 'run')} left out that a newer run of the same entry and seed replaces."
        )
    hosts = {
        (run.env.get("host"), run.env.get("cpu"), run.env.get("gpu"))
        for run in study.runs
        if run.env
    }
    if len(hosts) > 1:
        notes.append(
            f"> The runs took place on {len(hosts)} machines: times compare only within one of them."
        )
    if study.unreadable:
        rows = "\n".join(f"> - `{item.name}`: {escape(item.why)}" for item in study.unreadable)
        notes.append(
            f"> {count(len(study.unreadable), 'folder')} could not be read and are left out:\n>\n{rows}"
        )
    return notes
