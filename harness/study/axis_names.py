"""The axes of variants, as a study file names them; `variants.base.AXES` has their base classes.

They are repeated here because importing `variants.base` loads torch. A test compares the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness

SHIPPED = Path(harness.__file__).parent.parent / "variants"


@dataclass(frozen=True)
class AxisName:
    """An axis's default variant, and whether names of entries always have a label of the axis."""

    default: str
    in_every_name: bool = True


AXES: Mapping[str, AxisName] = {
    "positional": AxisName("learned"),
    "attention": AxisName("mha"),
    "norm": AxisName("layernorm", in_every_name=False),
    "mlp": AxisName("gelu", in_every_name=False),
    "optimizer": AxisName("adamw", in_every_name=False),
    "parallelism": AxisName("single"),
}


def variant_files(axis: str, paths: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the files of an axis's variants by name; the first of `paths` that has a name wins."""
    available = {}
    for folder in (SHIPPED, *reversed(paths)):
        for file in sorted((folder / axis).glob("*.py")):
            if not file.stem.startswith("_"):
                available[file.stem] = file
    return available
