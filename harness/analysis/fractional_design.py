"""Fractional designs: choose entries of a matrix from which all main effects can be estimated."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

MIN_GAIN = 1e-9  # of the log determinant, for which two cells are exchanged
RIDGE = 1e-6  # keeps the information matrix of the first few cells regular


def fractional_design(
    levels: Mapping[str, Sequence[str]], baseline: Mapping[str, str], size: int
) -> list[dict[str, str]]:
    """Return `size` cells of a matrix, with the baseline's, that keep main effects estimable.

    A D-optimal design: cells are added one at a time such that the determinant of the main effects'
    information matrix grows most (Mitchell 1974, first stage), then exchanged while that helps.

    Raises:
        ValueError: the size is below the number of main effects plus one, or above the matrix's.
    """
    axes = {axis: list(names) for axis, names in levels.items()}
    cells = [dict(zip(axes, cell, strict=True)) for cell in product(*axes.values())]
    effects = [(axis, name) for axis, names in axes.items() for name in names[1:]]
    smallest = 1 + len(effects)
    if not smallest <= size <= len(cells):
        raise ValueError(
            f"{size}: must be at least {smallest} (one for each level beyond the first of an axis, "
            f"and one more) and at most {len(cells)} (the whole matrix)"
        )
    rows = np.array(
        [[1.0, *(float(cell[axis] == name) for axis, name in effects)] for cell in cells]
    )

    def information(chosen: Sequence[int]) -> float:
        x = rows[list(chosen)]
        return float(np.linalg.slogdet(x.T @ x + RIDGE * np.eye(x.shape[1]))[1])

    def best_addition(chosen: Sequence[int]) -> int:
        others = [i for i in range(len(cells)) if i not in chosen]
        return max(others, key=lambda i: information([*chosen, i]))

    first = next((i for i, cell in enumerate(cells) if cell == {**cell, **baseline}), 0)
    chosen = [first]
    while len(chosen) < size:
        chosen.append(best_addition(chosen))
    improved = True
    while improved:
        improved = False
        for position in range(1, size):
            rest = chosen[:position] + chosen[position + 1 :]
            best = best_addition(rest)
            if information([*rest, best]) > information(chosen) + MIN_GAIN:
                chosen[position] = best
                improved = True
    return [cells[i] for i in sorted(chosen)]
