"""Check that the devices of runs exist where they start: on this machine, or on Slurm's nodes."""

from collections.abc import Iterator
from typing import Literal

import torch

from harness.data.batches import micro_batch_size
from harness.errors import Problem
from harness.model.float8 import block_layers, has_torchao
from harness.model.gpt import GPT
from harness.model.precision import Conditions, gpu_capability, why_unsupported
from harness.results.job_shape import cpu_shape, gpu_shape
from harness.results.records import LaunchSettings, SlurmSettings, TrainSettings
from harness.study.settings import Settings
from variants.base import Parallelism


def resolved_device(train: TrainSettings) -> Literal["cpu", "cuda"]:
    """Return the device of the runs; `auto` is a GPU if there is one."""
    if train.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return train.device


def check_device(
    location: str, label: str, parallelism: Parallelism, settings: Settings, launch: LaunchSettings
) -> Iterator[Problem]:
    """The parallelism runs on the device, and there are as many GPUs as it needs."""
    if launch.on == "slurm" and settings.train.device == "auto":
        yield Problem(
            f"{location}: {settings.place('train.device')}",
            'auto: with launch.on = "slurm" it would be the device of this machine, not of the '
            'nodes; set device = "cuda" or "cpu"',
        )
        return
    device = resolved_device(settings.train)
    yield from _check_precision(location, label, parallelism, settings, device, launch)
    if device not in parallelism.devices:
        allowed = " or ".join(parallelism.devices)
        yield Problem(
            f"{location}: axes.parallelism",
            f"{label} runs on {allowed}, and train.device is {device}; exclude it",
        )
    elif launch.on == "slurm":
        yield from _check_nodes(location, label, parallelism, device, launch.slurm)
    elif device == "cuda" and torch.cuda.device_count() < parallelism.n_devices:
        yield Problem(
            f"{location}: {settings.place('train.device')}",
            f"{label} needs {parallelism.n_devices} GPUs, and this machine has "
            f'{torch.cuda.device_count()}; exclude it, or set device = "cpu"',
        )


def _check_precision(
    location: str,
    label: str,
    parallelism: Parallelism,
    settings: Settings,
    device: str,
    launch: LaunchSettings,
) -> Iterator[Problem]:
    """The device has the precision, and the parallelism supports it.

    The GPUs of Slurm's nodes are not known here: their runs check them.
    """
    conditions = Conditions(
        device=device,
        capability=gpu_capability() if launch.on == "local" else None,
        supported=parallelism.precisions,
        has_torchao=has_torchao(),
    )
    for reason in why_unsupported(settings.train.precision, conditions):
        place = settings.place("train.precision", "train.device")
        yield Problem(f"{location}: {place}", f"{reason} ({label})")


def check_sizes(
    location: str, model: GPT, parallelism: Parallelism, settings: Settings
) -> Iterator[Problem]:
    """The linear layers and the micro-batches have sizes that the precision can compute."""
    train = settings.train
    n_groups = parallelism.data_parallel_size
    seq_len = settings.model.seq_len
    n_tokens = []
    for tokens in (train.tokens_per_step, *train.ramp_tokens):
        n_local = tokens // seq_len // n_groups
        n_tokens.append(micro_batch_size(n_local, train.micro_batch_size) * seq_len)
    conditions = Conditions(
        device=resolved_device(train), layers=block_layers(model), n_tokens=n_tokens
    )
    for reason in why_unsupported(train.precision, conditions):
        place = settings.place("train.precision", "model.n_embd")
        yield Problem(f"{location}: {place}", reason)


def _check_nodes(
    location: str, label: str, parallelism: Parallelism, device: str, slurm: SlurmSettings
) -> Iterator[Problem]:
    """The processes divide over nodes; this machine's devices do not count."""
    key = "gpus_per_node" if device == "cuda" else "processes_per_node"
    if device == "cuda" and slurm.gpus_per_node is None:
        yield Problem(
            f"{location}: launch.slurm.gpus_per_node",
            'missing: with device = "cuda", it must be the number of GPUs of a node',
        )
        return
    try:
        if device == "cuda":
            gpu_shape(parallelism.world_size, parallelism.n_devices, slurm)
        else:
            cpu_shape(parallelism.world_size, slurm)
    except ValueError as error:
        yield Problem(
            f"{location}: axes.parallelism",
            f"{label}: {error}; change it, exclude it, or change launch.slurm.{key}",
        )
