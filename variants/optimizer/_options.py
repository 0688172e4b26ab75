"""Types of the options of optimizers, and their bounds."""

from typing import Annotated

from pydantic import Field

LearningRate = Annotated[float, Field(gt=0, le=1e3)]
WeightDecay = Annotated[float, Field(ge=0, le=1e3)]
Beta = Annotated[float, Field(ge=0, lt=1)]
