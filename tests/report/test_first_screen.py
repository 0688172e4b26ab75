"""The first screen states only numbers of summary.json, and only what its verdicts support."""

import json
import re

import pytest
from synthetic_ladder import SyntheticLadder

from harness.analysis import answer, dataset
from harness.analysis.answer import BASELINE
from harness.analysis.summary import as_record, summarize
from harness.report import charts, study_report
from harness.report.charts.answer import MAX_ROWS, candidate_title, plotted_rows
from harness.report.charts.spec import Forest
from harness.report.render import terminal
from harness.results.records import EquivalenceMargin, LaunchRecord, Superiority

NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
CLAIM = re.compile(r"(\S[^.;:]*?) (lowers|raises) (?:the )?validation loss")
TWO = {"positional": ["learned", "rope"], "attention": ["mha", "gqa2", "local64"]}


def shipped(fake):
    """Keep the study of six candidates under three parallelisms."""


def no_parallelism(fake):
    fake.axes = dict(TWO)


def one_entry(fake):
    fake.axes = {"positional": ["learned"]}


def one_seed(fake):
    fake.seeds = (0,)


def two_seeds(fake):
    fake.axes = dict(TWO)
    fake.seeds = (0, 1)


def lost(fake):
    fake.outcome = {
        "rope-mha-single-s1": ("failed", "nan", "NotFiniteError: step 6"),
        "learned-local64-single-s2": ("failed", "oom", "OutOfMemoryError: 2 GiB"),
    }


def unfinished(fake):
    fake.outcome = {f"rope-mha-single-s{seed}": ("pending", None, None) for seed in fake.seeds}


def failed_baseline(fake):
    fake.axes = {"positional": ["learned", "rope"]}
    fake.outcome = {f"learned-s{seed}": ("failed", "nan", "NotFiniteError") for seed in fake.seeds}


def many_levels(fake):
    fake.axes = {"positional": ["learned"], "attention": ["mha", *(f"v{i}" for i in range(16))]}


def corpora(fake):
    other = {"data.corpus": "b.txt", "data.sha256": "cd" * 32}
    fake.axes = {"positional": ["learned", "rope"], "text": ["a", "b"]}
    fake.settings = {"text": {"a": {"data.corpus": "a.txt"}, "b": other}}


def only_parallelism(fake):
    fake.axes = {"parallelism": ["single", "ddp2", "fsdp2"]}


def equivalent(fake):
    fake.axes = dict(TWO)
    margin = EquivalenceMargin(val_loss=1.0, tokens_per_s=0.9)
    launch = LaunchRecord(order=[], settings_hash="c0ffee", equivalence_margin=margin)
    fake.store.record_launch(fake.name, launch)


def superior(fake):
    fake.axes = dict(TWO)
    thresholds = Superiority(val_loss=0.05, tokens_per_s=0.01)
    launch = LaunchRecord(order=[], settings_hash="c0ffee", superiority=thresholds)
    fake.store.record_launch(fake.name, launch)


KINDS = [
    shipped,
    no_parallelism,
    one_entry,
    one_seed,
    two_seeds,
    lost,
    unfinished,
    failed_baseline,
    many_levels,
    corpora,
    only_parallelism,
    equivalent,
    superior,
]


SCREENS = {}


def finished(fake):
    fake.baseline = {axis: labels[0] for axis, labels in fake.axes.items()}
    return summarize(dataset.read(fake.write().store, fake.name), "now")


@pytest.fixture(
    params=[*KINDS, "sizes", "ladder"], ids=lambda kind: getattr(kind, "__name__", kind)
)
def screen(request, fake, tmp_path, monkeypatch):
    """Return the summary of a study of each kind, and its first screen, computed once."""
    kind = getattr(request.param, "__name__", request.param)
    if kind in SCREENS:
        return SCREENS[kind]
    fake.steps = 8
    if request.param == "sizes":
        summary = request.getfixturevalue("asked_in_sizes")
        summary = summarize(dataset.read(summary.write().store, summary.name), "now")
    elif request.param == "ladder":
        study = SyntheticLadder(tmp_path / "results", axes={"attention": ["mha", "gqa2"]})
        summary = summarize(dataset.read(study.write().store, study.name), "now")
    else:
        request.param(fake)
        summary = finished(fake)
    SCREENS[kind] = summary, study_report.build(summary, charts.build(summary)).first
    return SCREENS[kind]


def texts(first):
    """Return every text of the first screen but names of candidates and axes."""
    found = [*first.sentences]
    found += [item for advice in first.advice for item in advice.items]
    if first.chart is not None:
        for row in first.chart.plot.rows:
            found += [(row.text,), *((cost.text, " ", cost.change) for cost in row.costs)]
    return [
        "".join(part if isinstance(part, str) else part.text for part in text) for text in found
    ]


def numbers_of(value):
    """Yield all numbers of a JSON value, and the length of each list."""
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers_of(item)
    elif isinstance(value, list):
        yield float(len(value))
        for item in value:
            yield from numbers_of(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def without_names(text, summary):
    """Return a text without the titles of levels, sizes, corpora and candidates."""
    names = {label for labels in summary.study.levels.values() for label in labels}
    names |= {entry.label for entry in summary.study.entries}
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.])", "NAME", text)
    return text


def states(shown, value):
    """Return whether a shown number is this one, rounded to its digits, in a unit of a report."""
    digits = len(shown.partition("e")[0].partition(".")[2])
    number = abs(float(shown.replace(",", "")))
    for unit in (1.0, 100.0, 1e-3, 1e-6, 2.0**-20, 2.0**-30):
        scaled = abs(value) * unit
        if abs(scaled - number) <= 0.5001 * 10**-digits + 5.1e-3 * number * (number >= 100):
            return True
    return False


def test_every_number_is_in_the_summary(screen):
    summary, first = screen
    known = list(numbers_of(json.loads(as_record(summary).model_dump_json())))
    ends = [abs(abs(value) - 1) for value in known]  # a ratio of 0.93 is 7 % less
    for text in texts(first):
        for shown in NUMBER.findall(without_names(text, summary)):
            assert any(states(shown, value) for value in known + ends), (shown, text)


def test_every_claim_has_its_verdict(screen):
    """A sentence that a verdict does not support is the fault that the harness exists to avoid."""
    summary, first = screen
    rows = {row.entry: row for row in summary.answer.rows}
    verdicts = {}
    for axis in summary.answer.axes:
        for level in axis.levels:
            row = rows.get(level.entry)
            verdicts[level.level] = row.verdict if row else level.effect.verdict
    for sentence in first.sentences:
        text = "".join(part if isinstance(part, str) else part.text for part in sentence)
        for name, verb in CLAIM.findall(text):
            level = name.split(" [")[0].strip()
            if level in verdicts and verdicts[level] is not None:
                assert verdicts[level] == {"lowers": "better", "raises": "worse"}[verb], text
        if "lowest loss is that of" in text:
            assert summary.answer.rows[0].verdict == "better", text
    better = next((advice for advice in first.advice if advice.kind == "better"), None)
    named = [row for row in rows.values() if row.verdict == "better" and not row.caveats]
    if better is not None and named:
        assert len(better.items) == min(len(named), 3) + (len(named) > 3)


def test_rows_agree_with_the_tests(screen):
    summary, first = screen
    tests = summary.metric_tests["val_loss"]
    for row in summary.answer.rows:
        assert (row.verdict is None) == (row.reason is not None)
        result = tests.entries.get(row.entry)
        if row.verdict and not row.contexts:
            assert (row.verdict, row.difference) == (result.verdict, result.difference)
    means = [row.difference.mean for row in summary.answer.rows if row.difference]
    assert means == sorted(means)
    if first.chart is None:
        return
    assert isinstance(first.chart.plot, Forest)
    shown = [row.entry for row in first.chart.plot.rows]
    rows = plotted_rows(summary)
    assert len(shown) == min(MAX_ROWS, len(rows))
    assert len(shown) + first.chart.plot.n_more == len(rows)
    baselines = [row.entry for row in summary.answer.rows if row.reason == BASELINE]
    assert not baselines or baselines[0] in shown


def test_each_candidate_is_one_row(screen):
    summary, _ = screen
    labels = [label for row in summary.answer.rows for label in row.entries]
    assert sorted(labels) == sorted(entry.label for entry in summary.study.entries)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_terminal_shows_it_within_its_width(screen, encoding):
    _, first = screen
    shown = terminal.render(first, 80, encoding)
    shown.encode(encoding)
    prose = [line for line in shown.splitlines() if not re.search(r"\S {2,}\S|^-+ ", line)]
    assert all(len(line) <= 80 for line in prose)
    assert first.chart is None or first.chart.plot.rows[0].text.lstrip("+-") in shown


def shown_sentences(summary):
    first = study_report.build(summary, charts.build(summary)).first
    return ["".join(map(str, sentence)) for sentence in first.sentences], first


def test_a_resolved_interaction_is_stated(fake):
    """What a level does alone is otherwise read as its effect in every combination."""
    fake.axes = dict(TWO)
    fake.gain = {"rope-gqa2": 0.4}
    sentences, _ = shown_sentences(finished(fake))
    assert "rope lowers validation loss" in sentences[0]
    assert any("do not add up: rope with gqa2 is 0.398 nats" in text for text in sentences), (
        sentences
    )


def test_every_item_says_more_than_a_name(screen):
    """A bare name under Unresolved does not say whether more seeds would help."""
    summary, first = screen
    names = {candidate_title(row) for row in summary.answer.rows}
    for advice in first.advice:
        for item in advice.items:
            assert "".join(map(str, item)) not in names


def test_levels_are_stated_best_first(fake):
    fake.axes = {"attention": ["mha", "a", "b", "c", "d", "e"]}
    fake.gain = {"a": 0.2, "b": 0.1, "c": -0.1, "d": -0.3, "e": -0.2}
    sentences, _ = shown_sentences(finished(fake))
    assert re.findall(r"(\w) (?:lowers|raises)", sentences[0]) == ["d", "e", "c"]


def test_cheaper_candidates_cost_visibly_less(fake):
    """Here rope has 64 of 222,286 parameters less, which is no reason to adopt it."""
    equivalent(fake)
    _, first = shown_sentences(finished(fake))
    (advice,) = [advice for advice in first.advice if advice.kind == "cheaper"]
    items = ["".join(map(str, item)) for item in advice.items]
    assert items and not any(item.startswith("rope · mha:") for item in items)
    assert all("less memory" in item for item in items if " more" not in item)


def test_a_cheaper_candidate_has_no_higher_cost(fake):
    equivalent(fake)
    summary = finished(fake)
    row = next(row for row in summary.answer.rows if row.entry == "learned-gqa2")
    assert answer.is_cheaper(row)
    slower = row.tokens_per_s.model_copy(update={"verdict": "worse", "change": -0.3})
    assert not answer.is_cheaper(row.model_copy(update={"tokens_per_s": slower}))
