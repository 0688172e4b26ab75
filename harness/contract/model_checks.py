"""Checks on a whole model: outputs, gradients, reproducibility, and what forward must not touch."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from harness.contract.architecture import (
    Architecture,
    initialized,
    outputs,
    seeded,
    tokens_of,
    twins,
)
from harness.contract.violation import Violation, line_of
from harness.model.gpt import GPT
from harness.model.initialization import UndeclaredError
from harness.probes.activations import Activations
from variants.base import ModelShape, Part
from variants.errors import CODE_ERRORS, class_line, text_of

ROUNDED = (torch.float32, torch.bfloat16)
# fp8 is checked as bf16, in which all but the linear layers compute.
PRECISIONS = {"fp32": (torch.float32,), "bf16": ROUNDED, "fp8": ROUNDED}
LARGE_BATCH = 64  # sequences with which parameters without a gradient are tried again


def has_lost_tensors(model: GPT) -> list[Violation]:
    """Report tensors that `__init__` computes: training builds models without values.

    `model` is on the meta device.
    """
    violations: dict[str, Violation] = {}  # the first of each message
    for path, module in model.named_modules():
        buffers = [name for name, _ in module.named_buffers(recurse=False)]
        attributes = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        for name in (*buffers, *attributes):
            message = (
                f"the tensor `{name}` of {type(module).__name__} has no values, because models "
                "are built on the meta device; compute it in `forward`, or make it a parameter "
                "with `init_specs`"
            )
            violations.setdefault(message, Violation("build", message, path))
    return list(violations.values())


def lacks_initial_values(architecture: Architecture, shape: ModelShape) -> list[Violation]:
    """Report a parameter without initial values."""
    try:
        initialized(architecture, shape)
    except UndeclaredError as error:
        return [Violation("initial values", str(error))]
    return []


def has_wrong_outputs(model: GPT, length: int, precision: str = "fp32") -> list[Violation]:
    """Report outputs of parts, logits and losses with another shape or type than their input's."""
    violations = []
    allowed = PRECISIONS[precision]
    tokens = tokens_of(2, length)

    def check(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        x = inputs[0]
        assert isinstance(x, Tensor)
        if not isinstance(output, Tensor) or output.shape != x.shape:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            message = f"returns {found} for an input of shape {tuple(x.shape)}"
            violations.append(Violation("output", message, _path(model, module)))
        elif output.dtype not in allowed:
            message = f"returns {output.dtype} in {precision}"
            violations.append(Violation("output", message, _path(model, module)))

    model.eval()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32")
    try:
        with hooked(model, check), _rotation_types(model, violations), autocast, seeded():
            losses = model(tokens, tokens.roll(-1, 1))
    except CODE_ERRORS:
        if not violations:  # a wrong output raises an exception in another module
            raise
    if not violations and losses.dtype != torch.float32:
        violations.append(Violation("output", f"the losses are {losses.dtype}, not float32"))
    return violations[:1]


@contextmanager
def _rotation_types(model: GPT, violations: list[Violation]) -> Iterator[None]:
    """Report a positional encoding that changes the type or shape of embeddings, q or k."""
    positional = model.positional
    rotate = positional.rotate
    embed = positional.embed

    def compare(name: str, before: Tensor, after: Tensor) -> None:
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            message = (
                f"`{name}` returns {tuple(after.shape)} {after.dtype} "
                f"for {tuple(before.shape)} {before.dtype}"
            )
            violations.append(Violation("output", message, "positional"))

    def checked_rotate(q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        rotated_q, rotated_k = rotate(q, k, positions)
        compare("rotate", q, rotated_q)
        compare("rotate", k, rotated_k)
        return rotated_q, rotated_k

    def checked_embed(x: Tensor, positions: Tensor) -> Tensor:
        embedded = embed(x, positions)
        compare("embed", x, embedded)
        return embedded

    positional.rotate = checked_rotate  # type: ignore[assignment, method-assign]
    positional.embed = checked_embed  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del positional.rotate
        del positional.embed


def is_not_finite(model: GPT, length: int) -> list[Violation]:
    """Report the first part whose output is not finite, and parameters with such a gradient."""
    tokens = tokens_of(2, length)
    violations = []

    def check(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            violations.append(Violation("finite", "the output is not finite", _path(model, module)))

    model.train()
    with hooked(model, check), seeded():
        loss = model(tokens, tokens.roll(-1, 1)).mean()
    if violations:
        return violations[:1]
    if not loss.isfinite():
        return [Violation("finite", "the loss is not finite")]
    for name, gradient in _gradients(model, loss).items():
        if gradient is not None and not gradient.isfinite().all():
            message = f"the gradient of {name} is not finite"
            violations.append(Violation("finite", message, name.rpartition(".")[0]))
    return violations


def has_dead_parameters(model: GPT, length: int, others: Iterable[GPT] = ()) -> list[Violation]:
    """Report parameters without a gradient, or with one that is zero everywhere.

    `others` are models with other values, with which these parameters are tried again on more
    tokens: a mixture of experts sends tokens to few experts.
    """
    tokens = tokens_of(4, length)
    model.train()
    with seeded():
        loss = model(tokens, tokens.roll(-1, 1)).mean()
    dead = []
    for name, gradient in _gradients(model, loss).items():
        if gradient is None or not gradient.any():
            dead.append(name)
    if not dead or (_are_positional(dead) and not _mixes_positions(model, tokens)):
        return []
    for other in others:
        dead = _dead_with_more_tokens(other, dead, length)
        if not dead:
            return []
    more = f" (and {len(dead) - 1} more)" if len(dead) > 1 else ""
    message = f"dead: {dead[0]}{more} never receives a gradient, so it is not trained"
    return [Violation("gradients", message, dead[0].rpartition(".")[0])]


def _dead_with_more_tokens(model: GPT, names: Sequence[str], length: int) -> list[str]:
    """Return those of the parameters that have no gradient on a large batch either."""
    tokens = tokens_of(LARGE_BATCH, length)
    model.train()
    with seeded():
        loss = model(tokens, tokens.roll(-1, 1)).mean()
    gradients = _gradients(model, loss)
    dead = []
    for name in names:
        gradient = gradients[name]
        if gradient is None or not gradient.any():
            dead.append(name)
    return dead


def _are_positional(names: list[str]) -> bool:
    return all(name.startswith("positional.") for name in names)


def _mixes_positions(model: GPT, tokens: Tensor) -> bool:
    """Return whether an output depends on an earlier token.

    If not, because windows have one key, no positional encoding of scores has an effect.
    """
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % model.shape.vocab_size
    with torch.no_grad():
        difference = outputs(model, changed) - outputs(model, tokens)
    return bool(difference[:, 1:].any())


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, gradients, strict=True))


def is_not_reproducible(
    architecture: Architecture, shape: ModelShape, deterministic: bool
) -> list[Violation]:
    """Train two models of one seed on the same tokens; losses and gradients must be equal bits."""
    tokens = tokens_of(2, shape.seq_len)
    attempts: list[tuple[Tensor, dict[str, Tensor | None]]] = []
    models = twins(architecture, shape, 2)
    with deterministic_algorithms(deterministic):
        for model in (models[0], models[0], models[1]):
            model.train()
            with seeded():
                losses = model(tokens, tokens.roll(-1, 1))
            attempts.append((losses, _gradients(model, losses.mean())))
    first, again, twin = attempts
    for (losses, gradients), what in (
        (again, "two passes of one model"),
        (twin, "two models of one seed"),
    ):
        if not torch.equal(losses, first[0]):
            return [Violation("reproducible", f"{what} have different losses")]
        for name, gradient in gradients.items():
            other = first[1][name]
            if gradient is not None and other is not None and not torch.equal(gradient, other):
                message = f"{what} have different gradients of {name}"
                return [Violation("reproducible", message, name.rpartition(".")[0])]
    return []


def keeps_state(architecture: Architecture, shape: ModelShape) -> list[Violation]:
    """Report outputs that depend on earlier calls.

    Tokens A are the first call of one model, and follow other calls B in another and in the same.
    """
    length = shape.seq_len
    tokens = tokens_of(2, length)
    others = (tokens_of(2, length, 10), tokens_of(3, length // 2 + 1, 11))
    models = twins(architecture, shape, 4)
    for training in (False, True):
        fresh = models.pop()
        used = models.pop()
        with torch.no_grad():
            first = _parts(fresh, tokens, training)
            for other in others:
                for model in (fresh, used):
                    outputs(model, other, training)
                    later = _parts(model, tokens, training)
                    for name, output in first.items():
                        if not torch.equal(output, later[name]):
                            message = "the output depends on earlier calls: state is kept"
                            where = _path(model, model.get_submodule(name))
                            return [Violation("state", message, where)]
    return []


def _parts(model: GPT, tokens: Tensor, training: bool) -> dict[str, Tensor]:
    """Return the output of each part, by its path."""
    traced: dict[str, Tensor] = {}
    names = {module: name for name, module in model.named_modules()}

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            traced[names[module]] = output.clone()

    with hooked(model, record):
        outputs(model, tokens, training)
    return traced


def uses_global_random_numbers(model: GPT, length: int) -> list[Violation]:
    """Report random numbers drawn in evaluation mode, or of numpy or Python in any mode."""
    tokens = tokens_of(1, length)
    for training in (False, True):
        torch_state = torch.get_rng_state()
        numpy_state = np.random.get_state(legacy=False)
        python_state = random.getstate()
        model.train(training)
        with torch.no_grad():
            model.logits(tokens)
        used = []
        if not training and not torch.equal(torch_state, torch.get_rng_state()):
            used.append("torch")
        if str(numpy_state) != str(np.random.get_state(legacy=False)):
            used.append("numpy")
        if python_state != random.getstate():
            used.append("random")
        torch.set_rng_state(torch_state)
        if used:
            mode = "training" if training else "evaluation"
            message = f"draws global random numbers ({', '.join(used)}) in {mode} mode"
            return [Violation("random numbers", message)]
    return []


def changes_its_input(model: GPT, length: int) -> list[Violation]:
    """Report parts that change a tensor they are given."""
    tokens = tokens_of(2, length)
    original = tokens.clone()
    copies: list[tuple[Tensor, Tensor]] = []
    violations = []

    def copy(_: nn.Module, inputs: tuple[object, ...]) -> None:
        copies.extend((x, x.clone()) for x in inputs if isinstance(x, Tensor))

    def compare(module: nn.Module, inputs: tuple[object, ...], _: object) -> None:
        for x in reversed([x for x in inputs if isinstance(x, Tensor)]):
            given, before = copies.pop()
            assert given is x
            if not torch.equal(given.nan_to_num(), before.nan_to_num()):
                violations.append(
                    Violation("input", "changes its input in place", _path(model, module))
                )

    embed = model.positional.embed

    def checked_embed(x: Tensor, positions: Tensor) -> Tensor:
        before = x.clone()
        result = embed(x, positions)
        if not torch.equal(before.nan_to_num(), x.nan_to_num()):
            message = "`embed` changes its input in place"
            violations.append(Violation("input", message, "positional"))
        return result

    model.positional.embed = checked_embed  # type: ignore[assignment, method-assign]
    model.eval()
    try:
        with torch.no_grad(), hooked(model, compare, copy), seeded():
            model.logits(tokens)
    finally:
        del model.positional.embed
    if not torch.equal(tokens, original):
        violations.append(Violation("input", "changes the tokens in place"))
    return violations[:1]


def memory_is_unknown(model: GPT, length: int) -> list[Violation]:
    """Report a model on the meta device that cannot run there: its memory is not predicted."""
    tokens = torch.zeros((2, length), dtype=torch.long, device="meta")
    try:
        with Activations(model) as activations:
            model(tokens, tokens)
    except CODE_ERRORS as error:
        message = f"memory cannot be predicted: {type(error).__name__}: {text_of(error)}"
        return [Violation("memory", message, line_of(error), fatal=False)]
    assert activations.saved_bytes > 0
    return []


Hook = Callable[[nn.Module, tuple[object, ...], object], None]


@contextmanager
def hooked(
    model: GPT, after: Hook, before: Callable[[nn.Module, tuple[object, ...]], None] | None = None
) -> Iterator[None]:
    """Call `before` and `after` around the forward pass of each part of a model."""
    handles = []
    for module in model.modules():
        if isinstance(module, Part):
            if before is not None:
                handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Allow only deterministic algorithms, as a run does, if `enabled`."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(enabled)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _path(model: nn.Module, module: nn.Module) -> str:
    names = [name for name, other in model.named_modules() if other is module]
    return f"{names[0]} ({type(module).__name__}, {class_line(type(module))})"
