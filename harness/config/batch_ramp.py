"""Check `[train] batch_ramp`: each of its steps divides as the full step does."""

from collections.abc import Iterator

from harness.data.batches import micro_batch_size
from harness.errors import Problem
from harness.study.settings import Settings
from variants.base import Parallelism
from variants.validation import divisors

KEY = "train.batch_ramp"
OF_DIVISION = ("train.tokens_per_step", "model.seq_len")
N_NEAREST = 2


def check_ramp(location: str, settings: Settings) -> Iterator[Problem]:
    """The ramp ends within the run; the full step is a multiple of its first, in whole sequences.

    All steps are multiples of the first, so that they divide over the ranks if the first does.
    """
    train = settings.train
    ramp = train.batch_ramp
    if ramp is None:
        return
    seq_len = settings.model.seq_len
    if ramp.steps >= train.steps:
        yield Problem(
            f"{location}: {_place(settings, 'steps', 'train.steps')}",
            f"{ramp.steps}: the ramp would not end within the run; "
            f"allowed: at most steps - 1 = {train.steps - 1}",
        )
    start = ramp.start_tokens
    full = train.tokens_per_step
    is_fitting = start < full and full % start == 0 and start % seq_len == 0
    is_power = (full // start).bit_count() == 1
    if is_fitting and (is_power or ramp.growth == "linear"):
        return
    allowed = [n for n in divisors(full) if n < full and n % seq_len == 0]
    if ramp.growth == "doubling":
        allowed = [n for n in allowed if (full // n).bit_count() == 1]
    form = "by a power of two" if ramp.growth == "doubling" else "evenly"
    yield Problem(
        f"{location}: {_place(settings, 'start_tokens', *OF_DIVISION)}",
        f"{start}: must be a multiple of seq_len = {seq_len} that divides tokens_per_step = "
        f"{full} {form}, and less; {_nearest(start, allowed)}",
    )


def check_ramp_division(
    location: str, label: str, parallelism: Parallelism, settings: Settings
) -> Iterator[Problem]:
    """Each step of the ramp divides over the ranks of a parallelism, and into micro-batches."""
    train = settings.train
    ramp = train.batch_ramp
    if ramp is None or any(check_ramp(location, settings)):
        return
    seq_len = settings.model.seq_len
    n_groups = parallelism.data_parallel_size
    n_sequences = ramp.start_tokens // seq_len
    if n_sequences % n_groups:
        multiples = [n for n in divisors(train.tokens_per_step) if n % (seq_len * n_groups) == 0]
        yield Problem(
            f"{location}: {_place(settings, 'start_tokens', *OF_DIVISION)}",
            f"{ramp.start_tokens} gives {n_sequences} sequences of {seq_len}, which do not divide "
            f"over {n_groups} ranks of {label}; {_nearest(ramp.start_tokens, multiples[:-1])}",
        )
        return
    for tokens in dict.fromkeys(train.ramp_tokens):
        n_local = tokens // seq_len // n_groups
        try:
            micro_batch_size(n_local, train.micro_batch_size)
        except ValueError as error:
            n_first = n_sequences // n_groups
            place = settings.place("train.micro_batch_size", KEY, *OF_DIVISION)
            yield Problem(
                f"{location}: {place}",
                f"{error} at a step of {tokens} tokens in batch_ramp ({label}); "
                f"{_nearest(train.micro_batch_size or 1, divisors(n_first))}",
            )
            return


def _place(settings: Settings, name: str, *others: str) -> str:
    """Return where a field of the ramp is set, or the first other key that an axis sets."""
    place = settings.place(KEY, *others)
    return place if place == settings.place(*others) and place not in others else f"{place}.{name}"


def _nearest(value: int, allowed: list[int]) -> str:
    """Return the allowed numbers closest to a value, as part of a message."""
    if not allowed:
        return "no number does; remove batch_ramp, or change tokens_per_step"
    nearest = sorted(sorted(allowed, key=lambda n: abs(n - value))[:N_NEAREST])
    return f"the nearest that do: {', '.join(map(str, nearest))}"
