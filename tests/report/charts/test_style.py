"""If these failed, two entries would look the same, or a panel would hold too many lines."""

from harness.analysis import dataset
from harness.report.charts.style import LINES_PER_PANEL, choose_style


def test_a_colour_per_variant_and_a_panel_per_parallelism(fake):
    fake.seeds = (0,)
    study = dataset.read(fake.write().store, "tiny")
    style = choose_style(study)
    assert style.colour_axis == "attention"
    assert style.dash_axis == "positional"
    assert style.panel_axes == ("parallelism",)
    colours = {(entry.axes["attention"], style.mark(entry).colour) for entry in study.entries}
    assert len(colours) == 3
    looks = {(style.mark(entry), style.panel(entry)) for entry in study.entries}
    assert len(looks) == len(study.entries)


def test_markers_distinguish_variants_of_the_same_colour(fake):
    fake.axes = {"attention": [f"window{i}" for i in range(40)], "parallelism": ["single"]}
    fake.baseline = {"attention": "window0", "parallelism": "single"}
    fake.seeds = (0,)
    fake.steps = 4
    study = dataset.read(fake.write().store, "tiny")
    style = choose_style(study)
    assert len({(style.mark(entry), style.markers(entry)) for entry in study.entries}) == 40


def test_crowded_panels_are_divided(fake):
    fake.axes = {
        "positional": list("abc"),
        "attention": list("defg"),
        "parallelism": ["single", "ddp2"],
    }
    fake.baseline = {}
    fake.seeds = (0,)
    fake.steps = 4
    style = choose_style(dataset.read(fake.write().store, "tiny"))
    assert set(style.panel_axes) == {"positional", "parallelism"}
    assert len(style.levels["attention"]) <= LINES_PER_PANEL


def test_contexts_and_other_texts_get_panels(fake):
    """Losses of two sizes or tokenizers on one pair of axes look like differences of variants."""
    fake.axes = {
        "positional": ["learned", "rope"],
        "attention": ["mha", "gqa2"],
        "size": ["S", "M", "L"],
        "data.tokenizer": ["bytes", "gpt2"],
    }
    fake.settings = {
        "size": {name: {"model.n_embd": n} for name, n in (("S", 64), ("M", 128), ("L", 256))},
        "data.tokenizer": {name: {"data.tokenizer": name} for name in ("bytes", "gpt2")},
    }
    fake.baseline = {axis: labels[0] for axis, labels in fake.axes.items()}
    fake.compare = ["positional", "attention", "data.tokenizer"]
    fake.seeds = (0,)
    fake.steps = 4
    style = choose_style(dataset.read(fake.write().store, "tiny"))
    assert (style.colour_axis, style.dash_axis) == ("positional", "attention")
    assert set(style.panel_axes) == {"size", "data.tokenizer"}
