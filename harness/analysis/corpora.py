"""The final validation loss on each corpus of a mixture."""

from harness.analysis import lost_seeds
from harness.analysis.dataset import Entry, StudyResults
from harness.results.records import CorpusLoss, RunSpec
from harness.results.records.entries import CorpusResult


def measures(study: StudyResults, entry: Entry) -> list[CorpusResult]:
    """Return an entry's losses by corpus; empty if it does not train on a mixture."""
    if not entry.done or entry.done[0].imported:
        return []
    base = study.baseline_of(entry)
    corpora = [part.path for part in entry.done[0].resolved.launch.mixture]
    return [_measure(entry, base, i, corpus) for i, corpus in enumerate(corpora)]


def _measure(entry: Entry, base: Entry | None, index: int, corpus: str) -> CorpusResult:
    found = _last(entry, corpus)
    losses = _losses(found)
    bits = [line.bits_per_byte for line in found.values() if line.bits_per_byte is not None]
    is_comparable = base is not None and base.done and _same_windows(entry, base, corpus)
    return CorpusResult(
        corpus=corpus,
        share=entry.done[0].resolved.launch.weights[index],
        seeds=list(losses),
        val_loss=lost_seeds.mean(entry, list(losses.values())) if losses else None,
        bits_per_byte=lost_seeds.mean(entry, bits) if bits else None,
        val_loss_difference=lost_seeds.mean_difference(
            entry, base, losses, _losses(_last(base, corpus))
        )
        if base is not None and is_comparable
        else None,
    )


def _last(entry: Entry, corpus: str) -> dict[int, CorpusLoss]:
    """Return the loss on a corpus in the last evaluation of each finished run, by seed."""
    found = {}
    for run in entry.done:
        for line in run.evals.last_by_corpus:
            if line.corpus == corpus:
                found[run.seed] = line
    return found


def _losses(found: dict[int, CorpusLoss]) -> dict[int, float]:
    return {seed: line.val_loss for seed, line in found.items() if line.val_loss is not None}


def _same_windows(entry: Entry, base: Entry, corpus: str) -> bool:
    """Return whether both entries validate on the same windows of a corpus."""
    return _windows(entry.done[0].resolved, corpus) == _windows(base.done[0].resolved, corpus)


def _windows(spec: RunSpec, corpus: str) -> object:
    """Return all that determines the validation windows of a corpus, None if it has none."""
    for i, part in enumerate(spec.launch.mixture):
        if part.path == corpus:
            slices = [(s.sha256, s.start, s.stop) for s in spec.launch.val_tokens if s.part == i]
            eval_tokens = spec.train.eval_tokens
            share = None if eval_tokens == "all" else spec.launch.weights[i]
            lengths = (spec.model.seq_len, spec.data.tokenizer, eval_tokens, spec.eval_windows)
            return slices, share, lengths, spec.data.documents
    return None
