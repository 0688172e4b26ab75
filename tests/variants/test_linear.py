"""oneDNN gives the same result as PyTorch, and is only used without gradients."""

import pytest
import torch
import torch.nn.functional as F

from variants import linear as module
from variants.linear import MAX_ROWS, Linear, linear


@pytest.fixture
def taken(monkeypatch):
    """Tell how often the fast way was taken."""
    if not module.HAS_ONEDNN:
        pytest.skip("PyTorch is built without oneDNN here")
    calls = []
    fast = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn,
        "_linear_pointwise",
        lambda *arguments: calls.append(arguments) or fast(*arguments),
    )
    return calls


@pytest.mark.parametrize("shape", [(1, 1), (1,), (4, 1), (MAX_ROWS,), (2, MAX_ROWS // 2)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_few_rows_use_onednn_with_the_same_result(taken, shape, bias):
    layer, x = Linear(96, 40, bias=bias), torch.randn(*shape, 96)
    y = layer(x)
    assert taken and y.shape == (*shape, 40)
    torch.testing.assert_close(y, F.linear(x, layer.weight, layer.bias), atol=1e-6, rtol=1e-5)
    strided = torch.randn(3, 5, 96)[:, -1]
    torch.testing.assert_close(
        linear(strided, layer.weight), F.linear(strided, layer.weight), atol=1e-6, rtol=1e-5
    )


def test_training_many_rows_and_autocast_use_pytorch(taken):
    layer, few = Linear(8, 4), torch.randn(1, 8)
    layer(few).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        layer(torch.randn(MAX_ROWS + 1, 8))
        layer.double()(few.double())
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(few).dtype == torch.bfloat16
    assert not taken
