"""Every fault of a user's variant is named with its line, all at once, before anything starts."""

import pytest
from hostile import BASES

from harness.config import load
from harness.errors import UserError

CONTRACTS = {
    "positional": "Positional",
    "attention": "Attention",
    "norm": "Norm",
    "mlp": "FeedForward",
    "optimizer": "Optimizer",
    "parallelism": "Parallelism",
}
FILE = """from dataclasses import dataclass
import torch
from torch import nn
from variants.{axis}.{base} as Base
class V(Base):
    {body}
"""
CLASS = 5  # its line
PARTS = ("positional", "attention", "norm", "mlp")
INIT = "def __init__(self, *args):\n        super().__init__(*args)\n        "
FAULTS = {  # the body of the class, the axes, the line to be named, and what to say
    "init": ("def __init__(self, *_):\n        1 / 0", BASES, 7, "ZeroDivisionError"),
    "arguments": ("def __init__(self): pass", BASES, CLASS, "`__init__` of V raises TypeError"),
    "check": (
        "@classmethod\n    def check(cls, shape, options): shape.nothing",
        BASES,
        7,
        "`check` of V raises AttributeError",
    ),
    "check returns None": (
        "@classmethod\n    def check(cls, shape, options): pass",
        BASES,
        CLASS,
        "`check` of V raises AttributeError",
    ),
    "check_rotary": (
        "@classmethod\n    def check_rotary(cls, width, options): 1 / 0",
        ["positional"],
        7,
        "`check_rotary` of V raises ZeroDivisionError",
    ),
    "rotary_dim": (
        "@classmethod\n    def rotary_dim(cls, shape, options): 1 / 0",
        ["attention"],
        7,
        "`rotary_dim` of V raises ZeroDivisionError",
    ),
    "not a dataclass": ("class Options:\n        x = 1", BASES, 6, "must be a frozen dataclass"),
    "not a class": ("Options = 3", BASES, CLASS, "V.Options is 3"),
    "not frozen": ("@dataclass\n    class Options:\n        x: int = 1", BASES, 6, "be frozen"),
    "no such type": (
        "@dataclass(frozen=True)\n    class Options:\n        x: 'Nothing' = 1",
        BASES,
        6,
        "NameError: name 'Nothing' is not defined",
    ),
    "type that a file cannot state": (
        "@dataclass(frozen=True)\n    class Options:\n        x: torch.Tensor = None",
        BASES,
        6,
        "Tensor",
    ),
    "options raise": (
        "@dataclass(frozen=True)\n    class Options:\n        x: int = 1\n"
        "        def __post_init__(self): 1 / 0",
        BASES,
        9,
        "`Options` of V raises ZeroDivisionError",
    ),
    "title's option": ('title = "V-{nothing}"', BASES, CLASS, "no option 'nothing'; allowed: "),
    "title's format": ('title = "V-{0!r:>3}"', BASES, CLASS, "no option '0!r:>3'; allowed: "),
    "title's brace": ('title = "V-{"', BASES, CLASS, "write an option as {option}"),
    "title's type": ("title = 3", BASES, CLASS, "V.title is 3: must be a text of at most 40"),
    "title's length": ('title = "V" * 41', BASES, CLASS, "must be a text of at most 40"),
    "flops": ("def flops_per_token(self, *_): 1 / 0", ["attention", "mlp"], 6, "ZeroDivision"),
    "flops without a number": (
        "def flops_per_token(self, *_): pass",
        ["attention", "mlp"],
        CLASS,
        "`flops_per_token` returns None; it must be a number",
    ),
    "no initial values": (
        f"{INIT}self.a = nn.Parameter(torch.ones(3))\n        self.b = nn.Parameter(torch.ones(3))",
        PARTS,
        CLASS,
        "parameters a, b: no initial values; declare them in `init_specs()`",
    ),
    "init_specs": ("def init_specs(self): 1 / 0", PARTS, 6, "`init_specs` of V raises"),
    "buffer": (
        f"{INIT}self.register_buffer('mask', torch.ones(3))",
        PARTS,
        CLASS,
        "the buffer mask has no values",
    ),
    "tensor": (f"{INIT}self.s = torch.ones(3)", PARTS, CLASS, "the tensor `s` has no values"),
    "processes": (
        "@property\n    def world_size(self): return 0",
        ["parallelism"],
        CLASS,
        "`world_size` is 0",
    ),
    "support": (
        "def why_unsupported(self, make_model): 1 / 0",
        ["parallelism"],
        6,
        "`why_unsupported` of V raises ZeroDivisionError",
    ),
    "optimizer": (
        "def make(self, parameters): 1 / 0",
        ["optimizer"],
        6,
        "`make` of V raises ZeroDivisionError",
    ),
    "optimizer's type": (
        "def make(self, parameters): return 3",
        ["optimizer"],
        CLASS,
        "`make` returns 3; it must return a torch.optim.Optimizer",
    ),
    "optimizer's parameters": (
        "def make(self, parameters): return super().make(parameters[1:])",
        ["optimizer"],
        CLASS,
        "h.0.attn.c_attn.weight is in 0 of the groups that `make` returns; it must be in one",
    ),
    "optimizer's state": (
        "def state_bytes(self, parameter): return 8",
        ["optimizer"],
        CLASS,
        "`state_bytes` of V raises AttributeError",
    ),
    "optimizer's support": (
        "def why_unsupported(self, parallelism): 1 / 0",
        ["optimizer"],
        6,
        "`why_unsupported` of V raises ZeroDivisionError",
    ),
    "memory": (
        "def memory_fractions(self, model): 1 / 0",
        ["parallelism"],
        6,
        "`memory_fractions` of V raises ZeroDivisionError",
    ),
}


def write(path, axis, text, name="mine"):
    file = path.parent / f"mine/{axis}/{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def messages(path):
    with pytest.raises(UserError) as raised:
        load(path)
    return [str(problem) for problem in raised.value.problems]


@pytest.fixture
def study(write_study):
    """Return a study with a variant `mine` on each axis."""
    path = write_study(
        ("seeds =", 'variant_paths = ["mine"]\nseeds ='),
        ('"rope"]', '"mine"]\nnorm = ["mine"]\nmlp = ["mine"]\noptimizer = ["mine"]'),
        ('["mha",', '["mha", "mine",'),
        ('["single", {', '["mine", {'),
        ('parallelism = "single"', 'parallelism = "mine"'),
    )
    for axis, base in BASES.items():
        write(path, axis, FILE.format(axis=axis, base=base, body="pass"))
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named_with_its_line_for_every_axis(study, fault):
    """A user would have to find the line in a traceback, one variant after the other."""
    body, axes, line, reason = FAULTS[fault]
    places = {}
    for axis in axes:
        text = FILE.format(axis=axis, base=BASES[axis], body=body)
        places[axis] = f"{write(study, axis, text)}:{line}: "
    found = messages(study)
    for place in places.values():
        (message,) = [message for message in found if place in message]
        assert reason in message and "\n" not in message
    assert len(found) == len(places)


@pytest.mark.parametrize("fault", [name for name, row in FAULTS.items() if "1 / 0" in row[0]])
def test_an_exit_in_a_variant_does_not_end_the_command(study, fault):
    """Its code would be that of the command: 0, with no run trained."""
    body, axes, line, _ = FAULTS[fault]
    body = body.replace("1 / 0", "raise SystemExit(0)")
    places = []
    for axis in axes:
        text = FILE.format(axis=axis, base=BASES[axis], body=body)
        places.append(f"{write(study, axis, text)}:{line}: ")
    found = messages(study)
    for place in places:
        (message,) = [message for message in found if place in message]
        assert "SystemExit: 0" in message


def test_variants_without_a_fault_are_accepted(study):
    load(study)


@pytest.mark.parametrize("axis", CONTRACTS)
def test_missing_methods_are_named_together(study, axis):
    base = CONTRACTS[axis]
    file = write(study, axis, f"from variants.base import {base}\nclass V({base}): ...\n")
    required = {
        "attention": ["forward", "flops_per_token"],
        "norm": ["forward"],
        "mlp": ["forward"],
        "optimizer": ["make", "state_bytes"],
        "parallelism": ["wrap"],
        "positional": [],
    }[axis]
    if not required:
        load(study)  # each method has a default
        return
    found = messages(study)
    assert len(found) == len(required)
    for method, message in zip(required, found, strict=True):
        assert f"{file}:2: V must define `{method}` (" in message


def test_one_fault_does_not_hide_another(study):
    """Each start would show one more fault."""
    write(study, "positional", "import nowhere\n")
    write(study, "norm", "x = (\n")
    write(study, "mlp", "class Lone: ...\n")
    body = "def __init__(self, *_): 1 / 0"
    write(study, "attention", FILE.format(axis="attention", base=BASES["attention"], body=body))
    write(study, "parallelism", "from variants.base import Norm\nclass Other(Norm): ...\n")
    study.write_text(study.read_text().replace("steps = 4", "steps = 4\nmicro_batch_size = 3"))
    found = messages(study)
    reasons = ["ModuleNotFoundError", "ZeroDivisionError", "SyntaxError", "Lone (", "Other ("]
    assert [next(r for r in reasons if r in message) for message in found[:5]] == reasons
    assert any("micro_batch_size" in message for message in found[5:])


def test_helper_of_a_variant_is_named_if_it_fails(study):
    """The innermost line of the user's own code is where the correction is due."""
    helper = write(study, "mlp", "def width():\n    return 1 / 0\n", "_helper")
    file = write(
        study,
        "mlp",
        "import importlib.util, pathlib\n"
        "spec = importlib.util.spec_from_file_location(\n"
        "    'helper', pathlib.Path(__file__).with_name('_helper.py'))\n"
        "helper = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(helper)\n"
        "helper.width()\n",
    )
    (message,) = messages(study)
    assert f"{helper}:2: the import of {file.name} raises ZeroDivisionError" in message


def test_line_is_the_users_if_shipped_code_raises(study):
    """The shipped variant that the user's derives from is not at fault."""
    body = "def __init__(self, shape, options):\n        super().__init__(shape, None)"
    file = write(study, "mlp", FILE.format(axis="mlp", base=BASES["mlp"], body=body))
    (message,) = messages(study)
    assert f"{file}:7: `__init__` of V raises AttributeError" in message


def test_optimizer_refuses_a_parallelism_with_its_reason(study):
    """A run would end in an error of PyTorch, or in wrong parameters, on some ranks only."""
    body = 'def why_unsupported(self, parallelism): return "needs whole matrices"'
    base = BASES["optimizer"]
    write(study, "optimizer", FILE.format(axis="optimizer", base=base, body=body))
    found = messages(study)
    assert all(
        "mine" in message and ": needs whole matrices; add [[exclude]]" in message
        for message in found
    )
