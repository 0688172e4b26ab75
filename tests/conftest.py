"""Fixtures for all tests: single-threaded torch, a process group, synthetic results."""

import os

import pytest
import tiktoken
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, settings
from synthetic_results import SIZES, SyntheticStudy

from harness.analysis import dataset
from harness.distributed.process_group import DistributedContext

# Each run tries the same examples; with FUZZ, others. A busy machine must not fail a test.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize="FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")


def pytest_configure():
    """Let the idle threads of new processes sleep.

    They spin otherwise, on cores that others need: a tiny run with two threads took six times the
    CPU time. No number depends on it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Use one thread: faster at these sizes, and it fixes the order of floating-point sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ranks(tmp_path):
    """Return the context of a process group whose only rank is this process."""
    rendezvous = f"file://{tmp_path}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    yield DistributedContext(0, 1, torch.device("cpu"))
    dist.destroy_process_group()


@pytest.fixture
def fake(tmp_path, monkeypatch) -> SyntheticStudy:
    """Return an empty synthetic study; `fake.write()` writes its results without flushing."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return SyntheticStudy(tmp_path / "results")


@pytest.fixture
def one_axis(fake) -> SyntheticStudy:
    """Return a synthetic study of two entries that differ in attention only."""
    fake.axes = {"positional": ["learned"], "attention": ["mha", "gqa2"], "parallelism": ["single"]}
    return fake


@pytest.fixture
def sizes(fake) -> SyntheticStudy:
    """Return a synthetic study of two positional variants in three sizes, without `compare`."""
    fake.axes = {"positional": ["learned", "rope"], "size": list(SIZES)}
    fake.settings = {"size": SIZES}
    fake.baseline = {"positional": "learned", "size": "M"}
    return fake


@pytest.fixture
def asked_in_sizes(sizes) -> SyntheticStudy:
    """Return three positional variants in three sizes, of which the study asks about the former."""
    sizes.axes["positional"] = ["learned", "rope", "alibi"]
    sizes.compare = ["positional"]
    sizes.seeds = tuple(range(5))
    return sizes


@pytest.fixture
def parallelisms(fake) -> SyntheticStudy:
    """Return a synthetic study of four entries under two parallelisms each."""
    fake.axes["attention"] = ["mha", "gqa2"]
    fake.axes["parallelism"] = ["single", "ddp2"]
    return fake


@pytest.fixture
def encoding_of_bytes(monkeypatch) -> None:
    """Replace the encodings of tiktoken by bytes, and the token 256 as their separator."""
    made = tiktoken.Encoding(
        "gpt2",
        pat_str=r"(?s:.)",
        mergeable_ranks={bytes([value]): value for value in range(256)},
        special_tokens={"<|endoftext|>": 256},
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: made)


@pytest.fixture
def read_study():
    """Return a function that writes a synthetic study and reads it."""
    return lambda study: dataset.read(study.write().store, study.name)


@pytest.fixture
def no_figures(monkeypatch):
    """Skip drawing, which takes most of the time of a report."""
    monkeypatch.setattr("harness.report.charts.mpl.render", lambda spec: {})


@pytest.fixture
def draw_only(monkeypatch):
    """Return a function that skips all figures but those with these names."""
    from harness.report.charts import mpl

    render = mpl.render

    def only(*names):
        monkeypatch.setattr(mpl, "render", lambda spec: render(spec) if spec.name in names else {})

    return only
