"""A training step leaves its results on the device: the host waits for them later, or never."""

import torch
from tiny_run import SEQ_LEN, tiny_spec
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.data.batches import Batches, Tokens
from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.training.step import TrainStep
from variants.base import ModelShape
from variants.parallelism.single import Single


def test_chunked_losses_read_nothing_from_the_device(tmp_path):
    """Fake tensors have no values: reading one fails where a GPU would make the host wait."""
    spec = tiny_spec(tmp_path, loss_chunk=5, micro_batch_size=2)
    shape = ModelShape(**spec.model.model_dump())
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = GPT(shape, ModelBuilder(shape, spec.axes, []))
        model.loss_chunk = spec.train.loss_chunk
        step = TrainStep(
            model,
            model,
            Single(Single.Options()),
            torch.optim.SGD(model.parameters()),
            Batches(Tokens(spec.launch.train_tokens), SEQ_LEN, 8, spec.order_seed),
            DistributedContext(0, 1, torch.device("cpu")),
            spec.train,
        )
        loss = step.forward_backward(0)
    assert loss.shape == ()
    assert all(parameter.grad is not None for parameter in model.parameters())
