"""If these failed, a chart would show wrong numbers, or leave an entry out without a note."""

import numpy as np
import pytest

from harness.analysis import dataset
from harness.analysis.decoding import measures
from harness.report.charts.entries import MAX_ENTRIES
from harness.report.charts.eval_lengths import smooth


def only_positional(study, *labels):
    """Make it a small study of one axis."""
    study.axes = {"positional": list(labels)}
    study.baseline = {}
    study.steps = 2


def entries_of(study):
    return dataset.read(study.store, study.name).entries


def test_every_chart_states_its_finding(fake, build):
    fake.decode = ([1, 8], [64, 128])
    fake.lengths = [64, 128]
    fake.axes["parallelism"].append("ddp4")
    charts = build(fake)
    assert set(charts) == {
        "answer",
        "val_loss",
        "train_loss",
        "memory",
        "throughput",
        "phases",
        "length_loss",
        "position_loss",
        "decode_time",
        "decode_cache",
        "throughput_loss",
        "contexts",
        "phases_by_context",
        "scaling",
        "differences_tokens_per_s",
        "effects_val_loss",
        "effects_tokens_per_s",
        "effects_peak_memory",
    }
    for spec in charts.values():
        assert spec.caption.endswith(".")
        assert spec.alt.endswith(".")
        has_finding = any(
            label in spec.alt for label in ("mha", "gqa2", "local64", "rope", "dp", "single")
        )
        assert has_finding or spec.alt.endswith(" unresolved.")
    losses = {
        entry.label: np.mean([run.evals.val_loss[-1] for run in entry.done])
        for entry in entries_of(fake)
    }
    lowest = min(losses, key=losses.get)
    finding = f"lowest at the end: {lowest}, {losses[lowest]:.4g} nats per token."
    assert charts["val_loss"].alt.endswith(finding)


def test_failed_entries_keep_a_row_with_their_status(fake, build):
    labels = [f"rope-mha-{label}" for label in fake.axes["parallelism"]]
    outcome = ("failed", "oom", "no memory")
    fake.outcome = {f"{label}-s{seed}": outcome for label in labels for seed in fake.seeds}
    charts = build(fake)
    for name in ("memory", "throughput", "phases"):
        notes = {row.name: row.note for row in charts[name].plot.rows if row.note}
        assert notes == {"rope-mha-single": "failed: oom"}
        assert "1 without a result" in charts[name].alt
    assert charts["val_loss"].plot.panels[0].missing == ["rope · mha"]


def test_bars_stack_to_the_measured_memory_with_its_prediction(one_axis, build):
    row = build(one_axis)["memory"].plot.rows[0]
    memory = entries_of(one_axis)[0].done[0].probes.memory[0]
    assert row.name == "learned-mha-single"
    assert sum(row.values) == pytest.approx(memory.peak / 2**20)
    assert row.predicted == pytest.approx(3_600_000 / 2**20)


def test_of_many_entries_the_lowest_losses_and_the_baseline_show(fake, build):
    fake.axes = {"attention": [f"window{i}" for i in range(MAX_ENTRIES + 10)]}
    fake.baseline = {"attention": "window9"}
    fake.seeds = (0,)
    fake.steps = 4
    charts = build(fake)
    shown = [row.name for row in charts["memory"].plot.rows]
    losses = {entry.label: entry.done[0].evals.val_loss[-1] for entry in entries_of(fake)}
    assert len(shown) == MAX_ENTRIES
    assert "window9" in shown
    left_out = losses.keys() - set(shown)
    assert min(losses[name] for name in left_out) >= max(
        losses[name] for name in shown if name != "window9"
    )
    assert "Of 50 entries" in charts["memory"].caption
    assert len(charts["throughput_loss"].plot.points) == 50


def test_the_pareto_front_is_ringed(one_axis, build):
    one_axis.axes["attention"] = ["mha", "gqa2", "local64"]
    points = {point.name: point for point in build(one_axis)["throughput_loss"].plot.points}
    on_front = {name for name, point in points.items() if point.on_front}
    assert on_front == {"learned-mha-single", "learned-local64-single"}  # gqa2 is slower and worse
    assert max(point.size for point in points.values()) == 1


def test_scaling_has_the_ideal_and_the_physical_cores(fake, build):
    fake.axes["parallelism"].append("ddp4")
    (panel,) = build(fake)["scaling"].plot.panels
    ideal, *others = panel.lines
    assert (ideal.name, ideal.x, ideal.y) == ("ideal", [1, 2, 4], [1, 2, 4])
    assert len(others) == 6
    assert [reference.label for reference in panel.references] == ["physical cores: 2"]


@pytest.mark.parametrize("name", ["decode_cache", "length_loss"])
def test_entries_that_differ_only_in_parallelism_show_once(fake, build, name):
    fake.seeds = (0,)
    fake.steps = 4
    fake.decode = ([1], [64])
    fake.lengths = [64]
    fake.outcome = {"rope-mha-single-s0": ("failed", "oom", "no memory")}
    (panel,) = build(fake)[name].plot.panels
    assert [line.entry for line in panel.lines] == [
        "learned-mha-single",
        "learned-gqa2-single",
        "learned-local64-single",
        "rope-mha-ddp2",
        "rope-gqa2-single",
        "rope-local64-single",
    ]


def test_decoding_shows_the_medians_where_it_is_defined(fake, build):
    only_positional(fake, "learned", "rope")
    fake.decode = ([1, 8], [64, 128, 1024])
    charts = build(fake)
    study = dataset.read(fake.store, fake.name)
    for batch, panel in zip((1, 8), charts["decode_time"].plot.panels, strict=True):
        learned, rope = panel.lines
        assert panel.title == f"batch {batch}"
        assert panel.x.ticks == [64, 128, 1024]
        assert learned.x == [64, 128]
        assert rope.x == [64, 128, 1024]
        medians = [
            1e3 * place.decode_step_s.median
            for place in measures(study, study.entries[1])
            if place.batch == batch
        ]
        assert rope.y == pytest.approx(medians)
    assert charts["decode_cache"].plot.panels[0].lines[1].y[0] == 2 * 4 * 64 * 4 * 64


@pytest.mark.parametrize(
    ("lengths", "panels"),
    [
        ([64], [64]),
        ([128], [128]),
        ([256, 512], [512]),
        ([32, 64, 512], [64, 512]),
        ([64, 128, 256], [128, 256]),
    ],
)
def test_positions_show_the_trained_and_the_longest_length(fake, build, lengths, panels):
    only_positional(fake, "rope")
    fake.seeds = (0,)
    fake.lengths = lengths
    titles = [panel.title for panel in build(fake)["position_loss"].plot.panels]
    assert titles == [f"length {length}" for length in panels]


@pytest.mark.parametrize("lengths", [[1], [256], [64, 128, 512, 2048]])
def test_the_trained_length_is_marked_if_the_axis_reaches_it(fake, build, lengths):
    only_positional(fake, "rope")
    fake.lengths = lengths
    charts = build(fake)
    (panel,) = charts["length_loss"].plot.panels
    assert [reference.label for reference in panel.references] == ["trained: 128"]
    references = [panel.references for panel in charts["position_loss"].plot.panels]
    assert all(references) == (lengths != [1])


def test_a_length_line_is_the_mean_and_ends_where_undefined(fake, build):
    only_positional(fake, "learned", "rope")
    fake.seeds = (0, 1)
    fake.lengths = [512, 64, 128]
    (panel,) = build(fake)["length_loss"].plot.panels
    assert [line.x for line in panel.lines] == [[64, 128], [64, 128, 512]]
    assert panel.x.ticks == [64, 128, 512]
    for entry, line in zip(entries_of(fake), panel.lines, strict=True):
        losses = [[run.lengths[int(x)].val_loss for run in entry.done] for x in line.x]
        assert line.y == pytest.approx(np.mean(losses, axis=1))


def test_a_length_defined_only_without_a_line_has_no_tick(fake, build):
    """Sharded, a model may fit a length for which a single process runs out of memory."""
    fake.axes = {"positional": ["learned"], "parallelism": ["single", "fsdp2"]}
    fake.baseline = {"parallelism": "single"}
    fake.seeds = (0,)
    fake.steps = 2
    fake.lengths = [64, 512]  # learned positions end at 128
    (panel,) = build(fake)["length_loss"].plot.panels
    assert panel.x.ticks == [64, 128]


def test_smoothing_keeps_the_mean_and_widens_with_the_position():
    loss = np.random.default_rng(0).normal(size=64)
    x, means = smooth(loss, 64)
    assert (x[0], means[0]) == (1, loss[0])
    assert means[1] == loss[1]
    assert means[-1] == pytest.approx(loss[45:].mean())  # from 64 / sqrt(2) = 45.3 on
    assert means[-2] == pytest.approx(loss[32:45].mean())
    assert x[-2] == pytest.approx(np.sqrt(33 * 45))
    assert np.all(np.diff(x) > 0)


def test_smoothing_weighs_bins_by_their_positions():
    """8 positions in bins of 2, 3 and 3: the last half doubling is the last bin."""
    x, means = smooth(np.array([1.0, 2.0, 4.0]), 8)
    assert means.tolist() == [1, 2, 4]
    assert x == pytest.approx(np.sqrt([1 * 2, 3 * 5, 6 * 8]))
    _, means = smooth(np.array([1.0, 2.0, 4.0, 8.0, 16.0]), 12)  # last positions 2, 4, 7, 9, 12
    assert means.tolist() == [1, 2, 4, pytest.approx((2 * 8 + 3 * 16) / 5)]
