"""Looks at the results of a study that adds seeds where needed: the plan and the levels."""

from typing import Annotated, Literal

from pydantic import Field

from harness.results.records.base import Positive, Seed, StrictModel

AskedQuantity = Literal["val_loss", "tokens_per_s"]  # peak memory is exact with one seed
ALL_QUESTIONS: tuple[AskedQuantity, ...] = ("val_loss", "tokens_per_s")


class LookPlan(StrictModel):
    """The planned looks of a study: after which numbers of seeds its verdicts are computed."""

    seeds: list[Seed] = Field(description="seeds of the last look, in the order of their use")
    looks: list[Positive] = Field(description="number of seeds at each look")
    open_ended: bool = Field(
        default=False, description="whether no end was stated: later looks have lower levels"
    )
    questions: list[AskedQuantity] = Field(
        default=[*ALL_QUESTIONS], description="metrics whose verdicts an entry waits for"
    )

    def seeds_at(self, look: int) -> list[int]:
        """Return the seeds of a look, counted from 1."""
        return self.seeds[: self.looks[look - 1]]


class Look(StrictModel):
    """One look: the seeds that its verdicts use, and the level of its tests."""

    seeds: list[Seed] = Field(description="all seeds that the verdicts use")
    level: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="familywise error rate of its tests"
    )


class Looks(StrictModel):
    """All looks at the results of a study: those that were taken, and those that are planned.

    The levels of the looks add up to at most 0.05 (Bonferroni), so that the probability of any
    false verdict in a family is at most 0.05 over all looks. With K planned looks, each has the
    level 0.05 / K. Without a stated end, and if seeds were added to results that could be seen,
    look k has the level 0.05 / (k (k + 1)).
    """

    planned: bool = Field(description="whether all looks were planned before the first result")
    open_ended: bool = Field(default=False, description="whether the plan states no end")
    looks: list[Look] = Field(min_length=1, description="the looks in order, of rising seeds")
    questions: list[AskedQuantity] = Field(
        default=[*ALL_QUESTIONS], description="metrics whose verdicts an entry waits for"
    )

    @property
    def is_fixed(self) -> bool:
        """Whether there is one look: the number of seeds did not depend on results."""
        return len(self.looks) == 1
