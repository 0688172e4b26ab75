"""Leaves gains and biases untrained.

refused: forgets_vectors.py, ln_f.weight is in 0 of the groups
"""

from variants.optimizer.lion import Lion


class Forgetful(Lion):
    def make(self, parameters):
        return super().make([p for p in parameters if p.info.kind != "vector"])
