"""Without these, a variant could win because it is larger."""

import pytest

from harness.config import load
from harness.errors import UserError
from harness.model.builder import ModelBuilder
from variants.base import ModelShape

AXES = (
    'attention = ["mha"',
    'mlp = ["gelu", "swiglu", "relu2"]\nnorm = ["layernorm", "rmsnorm"]\nattention = ["mha"',
)


def match(measure):
    return ("seeds = [0, 1]", f'seeds = [0]\nmatch_size = "{measure}"')


def count(run, measure):
    return getattr(run.expected, {"parameters": "parameters", "flops": "flops_per_token"}[measure])


@pytest.mark.parametrize("measure", ["parameters", "flops"])
def test_every_entry_has_the_baselines_size_within_one_percent(write_study, measure):
    wide = ("n_embd = 32", "n_embd = 64")
    plain = load(write_study(AXES, wide))
    matched = load(write_study(AXES, wide, match(measure)))
    target = count(matched.runs[0], measure)
    assert count(plain.runs[0], measure) == target
    assert len(matched.runs) == 2 * 3 * 3 * 2 * 2
    for run in matched.runs:
        assert abs(count(run, measure) - target) <= 0.01 * target, run.entry
        model = ModelBuilder(ModelShape(**run.model.model_dump()), run.axes, []).model()
        assert run.expected.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert any(abs(count(run, measure) - target) > 0.01 * target for run in plain.runs), (
        "without matching, all sizes are equal"
    )
    assert matched.runs[0].axes["mlp"].options == {"width": 0}, "the baseline stays as it is"


def test_a_matched_width_is_part_of_the_run_id(write_study):
    plain = load(write_study(AXES))
    matched = load(write_study(AXES, match("parameters")))
    plain_ids, matched_ids = (
        {run.run_id for run in study.runs if run.entry.startswith("rope-gqa2")}
        for study in (plain, matched)
    )
    assert not plain_ids & matched_ids
    where = ["mlp=swiglu", "attention=gqa2"]
    selected = load(write_study(AXES, match("parameters")), where=where)
    assert len(selected.runs) == 2 * 2 * 2
    assert {run.run_id for run in selected.runs} <= matched.all_run_ids


def test_a_stated_width_and_an_unknown_measure_are_refused(write_study):
    stated = (
        'attention = ["mha"',
        'mlp = ["gelu", { variant = "relu2", width = 7 }]\nattention = ["mha"',
    )
    with pytest.raises(UserError, match="learned-mha-layernorm-relu27: relu27 sets its width"):
        load(write_study(stated, match("parameters")))
    with pytest.raises(
        UserError, match=r"study\.match_size: 'size': input should be 'parameters' or 'flops'"
    ):
        load(write_study(match("size")))


def test_an_mlp_that_has_no_width_is_refused(write_study):
    path = write_study(
        ('attention = ["mha"', 'mlp = ["gelu", "stiff"]\nattention = ["mha"'),
        ('name = "s"', 'name = "s"\nvariant_paths = ["mine"]'),
        match("parameters"),
    )
    (path.parent / "mine/mlp").mkdir(parents=True)
    (path.parent / "mine/mlp/stiff.py").write_text(
        "from torch import nn\nfrom variants.base import FeedForward\n\nclass Stiff(FeedForward):\n"
        "    def __init__(self, shape, options):\n        super().__init__(shape, options)\n"
        "        self.linear = nn.Linear(shape.n_embd, shape.n_embd)\n"
        "    def forward(self, x):\n        return self.linear(x)\n"
    )
    with pytest.raises(UserError, match="stiff has no option `width` to set its size"):
        load(path)
