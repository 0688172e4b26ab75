"""Five synthetic studies that a report must show well, by name: what its design is judged by."""

from collections.abc import Callable
from pathlib import Path

from reported import plant
from synthetic_ladder import SyntheticLadder
from synthetic_results import SyntheticStudy

from harness.results.records import EquivalenceMargin, LaunchRecord

STEPS = 60


def shipped(root: Path) -> SyntheticStudy:
    """Write six candidates under three parallelisms: the shape of the shipped study."""
    study = SyntheticStudy(root, "shipped", steps=STEPS, eval_every=10)
    study.write()
    margin = EquivalenceMargin(val_loss=0.01, tokens_per_s=0.05)
    launch = LaunchRecord(order=[], settings_hash=study.settings_hash, equivalence_margin=margin)
    study.store.record_launch(study.name, launch)
    return study


def one_entry(root: Path) -> SyntheticStudy:
    """Write three seeds of one entry, which is compared with nothing."""
    study = SyntheticStudy(root, "one-entry", steps=STEPS, eval_every=10)
    study.axes = {"positional": ["learned"]}
    study.baseline = {"positional": "learned"}
    return study.write()


def many_entries(root: Path) -> SyntheticStudy:
    """Write 200 candidates on two axes, some with the longest labels that a study may have."""
    study = SyntheticStudy(root, "many-entries", steps=20, eval_every=10)
    longest = [f"a_long_label_of_an_option_{i:02}".ljust(40, "x") for i in range(4)]
    study.axes = {
        "attention": ["mha", *(f"gqa{i}" for i in range(2, 18)), *longest[:3]],
        "positional": ["learned", "rope", "alibi", *(f"rope_theta{i}000" for i in range(1, 8))],
    }
    study.baseline = {axis: labels[0] for axis, labels in study.axes.items()}
    return study.write()


def ladder(root: Path) -> SyntheticLadder:
    """Write two candidates over four sizes, to which scaling laws are fitted."""
    study = SyntheticLadder(root, "ladder", axes={"attention": ["mha", "gqa2"]})
    study.write()
    return study


def troubled(root: Path) -> SyntheticStudy:
    """Write failures of each kind, an unfinished run, a diverging parallelism and lost seeds."""
    study = SyntheticStudy(root, "troubled", steps=STEPS, eval_every=10)
    study.outcome = {
        "rope-mha-single-s1": ("failed", "nan", "NotFiniteError: the loss is nan at step 6"),
        "learned-local64-single-s2": ("failed", "oom", "OutOfMemoryError: 2 GiB"),
        "rope-gqa2-ddp2-s0": ("failed", "timeout", "no activity for 600 s"),
        "rope-local64-single-s2": ("running", None, None),
        "rope-local64-ddp2-s2": ("pending", None, None),
    }
    study.write()
    for seed in study.seeds:
        plant(study, "learned-gqa2-ddp2", seed, initial_hash="another")
    return study


GALLERY: dict[str, Callable[[Path], SyntheticStudy]] = {
    "shipped": shipped,
    "one-entry": one_entry,
    "many-entries": many_entries,
    "ladder": ladder,
    "troubled": troubled,
}
