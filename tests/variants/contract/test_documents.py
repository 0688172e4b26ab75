"""Masked documents: no attention across them, in every attention variant, option and kernel."""

import contextlib

import pytest
import torch
from contract.cases import (
    ATTENTIONS,
    BOTH_KINDS,
    KINDS,
    POSITIONALS,
    POSITIONS,
    SHAPE,
    VARIED_ATTENTIONS,
    B,
    C,
    T,
    every_attention,
    every_kind,
    inputs,
    make_gpt,
    make_pair,
    named,
    pair,
    randomize,
    tokens_of,
)

from harness.probes.activations import Activations
from variants import registry

SEPARATOR = SHAPE.vocab_size - 1
STARTS = ([0, 7, 8, 15], [1, 23], [12])  # of the documents of each sequence, in all kinds of cut
NAMES = registry.files("attention")
SHIPPED = named(ATTENTIONS, *NAMES)
every_model = pytest.mark.parametrize(
    ("attention", "positional"), pair(SHIPPED, POSITIONALS), ids=str
)


def document_tokens(length=T):
    """Return tokens of three sequences that are cut into other documents each."""
    tokens_BT = tokens_of(length) % SEPARATOR
    for row, starts in enumerate(STARTS):
        tokens_BT[row, starts] = SEPARATOR
    return tokens_BT


def documents_of(tokens_BT):
    """Return the number of each token's document, counted without the model's code."""
    rows = []
    for row in tokens_BT.tolist():
        document = 0
        numbers = []
        for token in row:
            document += token == SEPARATOR
            numbers.append(document)
        rows.append(numbers)
    return torch.tensor(rows)


DOCUMENTS = documents_of(document_tokens())
N_DOCUMENTS = int(DOCUMENTS.max()) + 1


def own(document, values):
    """Return the values at the positions of one document of each sequence."""
    return values[document == DOCUMENTS]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@every_kind
def test_other_documents_change_no_bit_and_own_does(attention, positional, precision):
    """A masked key that still counts, however little, is attention across documents."""
    layer, positional = make_pair(attention, positional)
    autocast = contextlib.nullcontext()
    if precision == "bf16":
        autocast = torch.autocast("cpu", torch.bfloat16)
    parameters = list(layer.parameters())
    weights = inputs(6)

    def run(x_BTC, document):
        x_BTC = x_BTC.clone().requires_grad_()
        with autocast:
            y_BTC = layer(x_BTC, POSITIONS, positional, None, DOCUMENTS).float()
        loss = own(document, y_BTC * weights).sum()
        return y_BTC, torch.autograd.grad(loss, [x_BTC, *parameters], allow_unused=True)

    for document in range(N_DOCUMENTS):
        is_own = (document == DOCUMENTS)[..., None]
        y_BTC, gradients = run(inputs(), document)
        others = torch.where(is_own, inputs(), 5 * inputs(7))
        found, found_gradients = run(others, document)
        assert torch.equal(own(document, found), own(document, y_BTC))
        assert not gradients[0].masked_fill(is_own, 0).any()
        for gradient, expected in zip(found_gradients, gradients, strict=True):
            assert (gradient is None) == (expected is None)
            assert gradient is None or torch.equal(gradient, expected)
        changed, _ = run(torch.where(is_own, 5 * inputs(7), inputs()), document)
        assert (own(document, changed) != own(document, y_BTC)).any(dim=-1).all()


@every_kind
def test_document_equals_itself_alone(attention, positional):
    """Too much may be masked as well: a document must see all of itself, as without others."""
    layer, positional = make_pair(attention, positional)
    has_global_tokens = bool(getattr(attention.options, "global_tokens", 0))
    with torch.no_grad():
        together = layer(inputs(), POSITIONS, positional, None, DOCUMENTS)
        for row in range(B):
            for document in DOCUMENTS[row].unique():
                where = DOCUMENTS[row] == document
                if has_global_tokens and not where[0]:
                    continue  # alone, its own first tokens would be the global ones
                x_1SC = inputs()[row : row + 1, where]
                for positions in (POSITIONS[where], torch.arange(x_1SC.shape[1])):
                    alone = layer(x_1SC, positions, positional)
                    torch.testing.assert_close(together[row, where], alone[0], atol=2e-5, rtol=2e-5)


@every_model
def test_loss_depends_only_on_its_document(attention, positional):
    """Words of one document would be predicted with the help of another one."""
    model = randomize(make_gpt(attention, positional))
    model.separator = [SEPARATOR]
    tokens_BT = document_tokens()
    targets_BT = tokens_BT.roll(-1, 1)
    with torch.no_grad():
        losses_BT = model(tokens_BT, targets_BT)
        for document in range(N_DOCUMENTS):
            is_other_word = (document != DOCUMENTS) & (tokens_BT != SEPARATOR)
            changed = torch.where(is_other_word, (tokens_BT + 5) % SEPARATOR, tokens_BT)
            found = model(changed, targets_BT)
            assert torch.equal(own(document, found), own(document, losses_BT))
            if is_other_word.any():
                assert not torch.equal(found, losses_BT)


def test_separator_begins_its_document():
    """A first word predicted after the whole earlier document would hide what the mask costs."""
    model = make_gpt(*pair(SHIPPED, BOTH_KINDS)[0])
    assert model.documents(document_tokens()) is None
    model.separator = [SEPARATOR]
    tokens_BT = torch.tensor([[3, 4, SEPARATOR, 5, SEPARATOR, SEPARATOR, 6]])
    assert model.documents(tokens_BT).tolist() == [[0, 0, 1, 1, 2, 3, 3]]
    assert torch.equal(model.documents(document_tokens()), DOCUMENTS)


def test_separator_of_several_tokens_begins_a_document_at_its_end():
    """Before its last token it is a guess: a boundary there would reveal the tokens after it."""
    model = make_gpt(*pair(SHIPPED, BOTH_KINDS)[0])
    model.separator = [7, 8, 9]
    tokens_BT = torch.tensor([[8, 9, 7, 8, 9, 5, 7, 8], [7, 8, 9, 7, 8, 9, 9, 7]])
    expected = [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 2, 2, 2]]
    assert model.documents(tokens_BT).tolist() == expected
    for length in range(1, 8):
        begun = model.documents(tokens_BT[:, :length]).tolist()
        assert begun == [row[:length] for row in expected]


def test_decoding_has_one_document():
    """The cache holds no boundaries, and generation ends at a separator."""
    model = randomize(make_gpt(*pair(SHIPPED, BOTH_KINDS)[0])).eval()
    tokens_BT = document_tokens()
    unmasked = model.logits(tokens_BT)[:, -1]
    model.separator = [SEPARATOR]
    decoded = model.next_logits(tokens_BT, model.caches(B, T, torch.float32))
    torch.testing.assert_close(decoded, unmasked, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model.logits(tokens_BT)[:, -1], unmasked, atol=1e-2)


@pytest.mark.filterwarnings(
    "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning"
)
@pytest.mark.parametrize("name", ["sliding_window", "mla", "differential"])
def test_masked_block_compiles_as_a_whole(name):
    """A graph break at the mask would make masked runs slow."""
    rope = named(POSITIONALS, "rope")
    model = randomize(make_gpt(*pair(named(ATTENTIONS, name), rope)[0]))
    block = model.h[0]
    torch._dynamo.reset()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=False)
    outcomes = []
    for run in (block, compiled):
        x_BTC = inputs().requires_grad_()
        y_BTC = run(x_BTC, POSITIONS, model.positional, None, DOCUMENTS)
        outcomes.append([y_BTC, *torch.autograd.grad((y_BTC * inputs(6)).sum(), [x_BTC])])
    for plain, found in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("attention", "positional"), pair(SHIPPED, BOTH_KINDS), ids=str)
def test_long_sequences_are_masked_in_every_tile(attention, positional):
    """Fused kernels process keys in tiles; a tile that is hidden as a whole must not count."""
    length = 1100
    layer, positional = make_pair(attention, positional)
    positions = torch.arange(length)
    documents_1T = (positions >= 3).long()[None] + (positions >= 1000)
    x_1TC = inputs(3, 1, length, C)
    changed = torch.where(documents_1T[..., None] == 1, 3 * inputs(7, 1, length, C), x_1TC)
    with torch.no_grad():
        before = layer(x_1TC, positions, positional, None, documents_1T)
        after = layer(changed, positions, positional, None, documents_1T)
        alone = layer(x_1TC[:, 1000:], positions[1000:], positional)
    assert before.isfinite().all() and after.isfinite().all()
    assert torch.equal(after[documents_1T != 1], before[documents_1T != 1])
    torch.testing.assert_close(before[:, 1000:], alone, atol=2e-5, rtol=2e-5)


@every_model
def test_predicted_activations_cover_the_mask(attention, positional):
    """A run that was predicted to fit would be out of memory."""
    saved = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = make_gpt(attention, positional)
        model.separator = [SEPARATOR]
        tokens_BT = document_tokens().to(device)
        with Activations(model) as activations:
            model(tokens_BT, tokens_BT)
        saved.append(activations.saved_bytes)
    predicted, counted = saved
    assert predicted > 0.9 * counted


def test_every_shipped_attention_supports_documents():
    """A study with masked documents would have to exclude it."""
    assert {attention.name for attention, _ in KINDS} == set(NAMES)
    assert all(attention.cls.supports_documents for attention in [*SHIPPED, *VARIED_ATTENTIONS])


@every_attention
def test_own_attend_without_documents_withdraws_the_support(attention):
    """A class that derives from a shipped one would be accepted, and fail in the first step."""

    class Old(attention.cls):
        def forward(self, x_BTC, positions_T, positional, cache=None):
            return super().forward(x_BTC, positions_T, positional, cache)

    class New(attention.cls):
        pass

    assert not Old.supports_documents and New.supports_documents
