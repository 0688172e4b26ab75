"""Caveats: reasons not to take a result at face value, in summary.json."""

from typing import Literal

from pydantic import Field

from harness.results.records.base import StrictModel

CaveatKind = Literal[
    "non-causal",
    "outdated",
    "below-entropy",
    "unstable",
    "initial-loss",
    "counted-flops",
    "not-compiled",
    "other-budget",
    "other-precision",
    "other-hardware",
    "shared-machine",
    "lost-seeds",
    "overfitting",
    "unplanned-look",
]


class Caveat(StrictModel):
    """A reason not to take a result at face value."""

    kind: CaveatKind = Field(
        description="`non-causal`: it sees later tokens, which the study allows; `outdated`: the "
        "code has changed since the run; `below-entropy`: the loss is below the corpus's "
        "entropy; `unstable`: loss spikes or outliers of the gradient norm; `initial-loss`: far "
        "from ln(vocabulary); `counted-flops`: the variant's formula is wrong; `not-compiled`: the "
        "compiler's limit was reached; `other-budget`: the baseline trains on another number of "
        "tokens, or another amount of text; `lost-seeds`: a run failed, and the other seeds are a "
        "selection; `overfitting`: the validation loss rises after its lowest value; "
        "`other-precision`: validated in another precision than the baseline; "
        "`other-hardware`: runs on another machine, or with other cores, threads or software, than "
        "the baseline's of the seed; `shared-machine`: runs that overlapped others on their host; "
        "`unplanned-look`: the number of seeds changed when results could be seen"
    )
    entry: str | None = Field(description="the entry; null if it concerns the whole study")
    message: str = Field(description="the observation, as one sentence")
