"""[tune]: every entry tries the same settings, and a tuning that is not equal is refused."""

import pytest

from harness.config import tuning
from harness.study.study_file import TuneSection

GRID = {"train.lr": [1e-3, 3e-3], "train.weight_decay": [0.0, 0.1]}
RANGES = {
    "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "train.warmup_steps": {"low": 0, "high": 50},
}


def read(axes, seeds=(100,), study_seeds=(0, 1), varied=(), **options):
    section = TuneSection.model_validate({"axes": axes, "seeds": list(seeds), **options})
    return tuning.read(section, "s.toml", study_seeds, varied)


def test_a_grid_has_all_combinations_by_default():
    tuned, problems = read(GRID)
    assert problems == []
    assert (tuned.settings.method, tuned.settings.budget) == ("grid", 4)
    assert [tuning.setting_label(point) for point in tuned.points] == [
        "lr0.001_weight_decay0",
        "lr0.001_weight_decay0.1",
        "lr0.003_weight_decay0",
        "lr0.003_weight_decay0.1",
    ]


def test_a_value_is_stored_as_its_section_stores_it():
    tuned, _ = read({"train.lr": [1, 2]})
    assert [type(point["train.lr"]) for point in tuned.points] == [float, float]


def test_ranges_are_drawn_within_their_bounds_and_covered():
    tuned, problems = read(RANGES, budget=16)
    assert problems == []
    assert tuned.settings.method == "random"
    lrs = sorted(point["train.lr"] for point in tuned.points)
    assert len(set(lrs)) == 16
    assert all(1e-4 <= lr <= 1e-2 for lr in lrs)
    n_per_decade = sum(lr < 1e-3 for lr in lrs)
    assert 7 <= n_per_decade <= 9  # quasi-random: half of them in each half of the range
    steps = [point["train.warmup_steps"] for point in tuned.points]
    assert all(isinstance(n, int) and 0 <= n <= 50 for n in steps)


def test_a_larger_budget_keeps_the_settings_of_a_smaller_one():
    small, _ = read(RANGES, budget=4)
    large, _ = read(RANGES, budget=8)
    assert large.points[:4] == small.points


def test_halving_counts_the_runs_of_all_rungs():
    tuned, _ = read({"train.lr": [1e-3, 3e-3, 1e-2, 3e-2]}, seeds=(100, 101), rungs=[10, 20, 40])
    assert tuned.settings.method == "halving"
    assert tuned.settings.n_runs == (4 + 2 + 1) * 2


CASES = {
    "shared seed": (
        {"seeds": (0, 100)},
        "tune.seeds: 0: also in study.seeds; the chosen settings would be compared on the seeds",
    ),
    "repeated seed": ({"seeds": (100, 100)}, "tune.seeds: [100, 100]: a seed occurs twice"),
    "one value": (
        {"axes": {"train.lr": [1e-3]}},
        'tune.axes."train.lr": [0.001]: needs at least two values',
    ),
    "unknown key": (
        {"axes": {"train.lrr": [1e-3, 1e-2]}},
        "no such setting; did you mean 'train.lr'?",
    ),
    "unknown section": ({"axes": {"trian.lr": [1e-3, 1e-2]}}, "did you mean 'train.lr'?"),
    "average": (
        {"axes": {"train.ema_decay": [0.9, 0.99]}},
        "does not change the loss by which settings are chosen",
    ),
    "cost": ({"axes": {"train.steps": [10, 20]}}, "must be the same in all trials"),
    "size": ({"axes": {"model.n_layer": [1, 2]}}, "changes the cost of the model"),
    "varied": (
        {"varied": ("train.lr",)},
        'tune.axes."train.lr": an axis of the study varies this key; tune it or vary it, not both',
    ),
    "type": (
        {"axes": {"train.lr": ["x", 1e-3]}},
        "tune.axes.\"train.lr\"[0]: 'x': input should be a valid number",
    ),
    "bound": (
        {"axes": {"train.beta2": [0.9, 1.5]}},
        'tune.axes."train.beta2"[1]: 1.5: input should be less than 1',
    ),
    "twice": ({"axes": {"train.lr": [1e-3, 1e-3]}}, '"train.lr": 0.001: occurs twice'),
    "inverted": (
        {"axes": {"train.lr": {"low": 1e-2, "high": 1e-3}}, "budget": 4},
        '"train.lr": low = 0.01 is not below high = 0.001',
    ),
    "logarithm": (
        {"axes": {"train.lr": {"low": 0, "high": 1e-3, "log": True}}, "budget": 4},
        '"train.lr".low: 0',
    ),
    "range key": (
        {"axes": {"train.lr": {"low": 1e-4, "hihg": 1e-3}}, "budget": 4},
        "unknown key; did you mean 'high'?",
    ),
    "no budget": (
        {"axes": RANGES},
        "tune.budget: missing: the number of settings that each entry tries",
    ),
    "part of a grid": (
        {"axes": GRID, "budget": 3},
        "tune.budget: 3: the grid has 4 settings, and every entry must try all of them",
    ),
    "grid of ranges": (
        {"axes": RANGES, "method": "grid", "budget": 4},
        "tune.method: 'grid': a grid needs lists of values",
    ),
    "not halved": (
        {"axes": RANGES, "budget": 6, "rungs": [10, 20, 40]},
        "tune.budget: 6 settings cannot be halved 2 times; the nearest that can: 4, 8",
    ),
    "falling rungs": (
        {"axes": GRID, "rungs": [20, 10]},
        "tune.rungs: [20, 10]: must be at least two rising numbers of steps",
    ),
    "rungs of a grid": (
        {"axes": GRID, "rungs": [10, 20], "method": "grid"},
        "tune.rungs: only for method = 'halving'",
    ),
    "few settings": (
        {"axes": {"train.warmup_steps": {"low": 0, "high": 2}}, "budget": 50},
        "tune.budget: 50: the axes give 3 different settings only",
    ),
    "too many": (
        {"axes": {"train.lr": {"low": 1e-4, "high": 1e-3}}, "budget": 5000},
        "5000 settings for each entry; allowed: at most 1000",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_tuning_that_is_not_equal_is_refused(case):
    options, message = CASES[case]
    tuned, problems = read(**({"axes": GRID} | options))
    assert tuned is None
    assert any(message in str(problem) for problem in problems), [*map(str, problems)]


def test_all_problems_are_reported_at_once():
    axes = {"train.lr": [1e-3], "train.lrr": [1, 2], "train.beta1": {"low": 0.9, "high": 0.5}}
    _, problems = read(axes, seeds=(0,), rungs=[1])
    assert len(problems) >= 5
