"""A ramp that does not divide is refused before anything starts, with the nearest that do."""

import pytest

from harness.config import load
from harness.errors import UserError

# seq_len = 16, tokens_per_step = 128, on 1 and 2 ranks
WRONG = {
    "{ start_tokens = 32, steps = 4 }": (
        r"train.batch_ramp.steps: 4: the ramp would not end within the run; "
        r"allowed: at most steps - 1 = 3"
    ),
    "{ start_tokens = 24, steps = 2 }": (
        r"batch_ramp.start_tokens: 24: must be a multiple of seq_len = 16 that divides "
        r"tokens_per_step = 128 evenly, and less; the nearest that do: 16, 32"
    ),
    "{ start_tokens = 48, steps = 2 }": "the nearest that do: 32, 64",
    "{ start_tokens = 128, steps = 2 }": "and less; the nearest that do: 32, 64",
    "{ start_tokens = 256, steps = 2 }": "and less; the nearest that do: 32, 64",
    "{ start_tokens = 16, steps = 2 }": (
        r"start_tokens: 16 gives 1 sequences of 16, which do not divide over 2 ranks of ddp2; "
        r"the nearest that do: 32, 64"
    ),
    "{ start_tokens = 32, steps = 2, growth = 'double' }": "growth: 'double': input should be",
    "{ start = 32, steps = 2 }": "batch_ramp.start: unknown key; did you mean",
    "{ start_tokens = 32 }": "batch_ramp.steps: missing",
    "{ start_tokens = 0, steps = 1 }": "start_tokens: 0: input should be greater than or equal",
    "3": "batch_ramp: 3: input should be a table",
}


def ramp(value, *more):
    return ("steps = 4", "\n".join(["steps = 4", f"batch_ramp = {value}", *more]))


@pytest.mark.parametrize("value", WRONG)
def test_a_ramp_that_does_not_divide_is_refused(write_study, value):
    with pytest.raises(UserError, match=WRONG[value]):
        load(write_study(ramp(value)))


def test_doubling_needs_a_power_of_two(write_study):
    value = "{ start_tokens = 32, steps = 2, growth = 'doubling' }"
    tokens = ("tokens_per_step = 128", "tokens_per_step = 192")
    message = "= 192 by a power of two, and less; the nearest that do: 48, 96"
    with pytest.raises(UserError, match=message):
        load(write_study(ramp(value), tokens))
    assert load(write_study(ramp(value))).runs
    assert load(write_study(ramp(value.replace("doubling", "linear")), tokens)).runs


def test_micro_batches_divide_every_step_of_a_ramp(write_study):
    value = "{ start_tokens = 32, steps = 3 }"
    tokens = ("tokens_per_step = 128", "tokens_per_step = 256\nmicro_batch_size = 4")
    message = (
        r"micro_batch_size: 4 does not divide the 6 sequences of a rank at a step of 96 tokens "
        r"in batch_ramp \(single\); the nearest that do: 1, 2"
    )
    with pytest.raises(UserError, match=message):
        load(write_study(ramp(value), tokens))
    tokens = ("tokens_per_step = 128", "tokens_per_step = 256\nmicro_batch_size = 1")
    assert load(write_study(ramp(value), tokens)).runs


def test_a_ramp_is_part_of_the_run_id(write_study):
    ids = [
        load(write_study(*changes)).all_run_ids
        for changes in (
            [],
            [ramp("{ start_tokens = 32, steps = 2 }")],
            [ramp("{ start_tokens = 64, steps = 2 }")],
            [ramp("{ start_tokens = 32, steps = 2, growth = 'doubling' }")],
        )
    ]
    assert len(set.union(*ids)) == 4 * len(ids[0])
