"""An attention that claims to mask documents, and does not or masks too much, is found."""

import pytest
import torch
from contract.planted import architecture

from harness.contract.model import Conditions, check_model
from variants import registry
from variants.attention.mha import MultiHead
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=3, n_head=4, n_embd=64, seq_len=80, vocab_size=256)
MASKED = Conditions(masked_documents=True)
OPTIONS = {"gqa": {"n_kv_head": 2}, "sliding_window": {"window": 40, "global_tokens": 2}}


class Planted(MultiHead):
    def attend(self, q, k, v, positions_T, positional, documents_BT=None):
        documents_BT = None if documents_BT is None else self.seen(documents_BT)
        return super().attend(q, k, v, positions_T, positional, documents_BT)


class Ignored(Planted):
    def seen(self, documents_BT):
        return None


class OneLate(Planted):
    def seen(self, documents_BT):
        return torch.cat((documents_BT[:, :1], documents_BT[:, :-1]), dim=1)


class FirstSequence(Planted):
    def seen(self, documents_BT):
        return documents_BT[:1].expand_as(documents_BT)


class NotInTraining(Planted):
    def seen(self, documents_BT):
        return None if self.training else documents_BT


class NotInEvaluation(Planted):
    def seen(self, documents_BT):
        return documents_BT if self.training else None


class NotInLongSequences(Planted):
    def seen(self, documents_BT):
        return documents_BT if documents_BT.shape[1] < 64 else None


class EvenDocuments(Planted):
    def seen(self, documents_BT):
        return documents_BT // 2


class OwnTokenOnly(Planted):
    def seen(self, documents_BT):
        return torch.arange(documents_BT.shape[1]).expand_as(documents_BT)


class Faint(MultiHead):
    def attend(self, q, k, v, positions_T, positional, documents_BT=None):
        attend = super().attend
        whole = attend(q, k, v, positions_T, positional)
        return attend(q, k, v, positions_T, positional, documents_BT) + 1e-5 * whole


LEAKS = [
    Ignored,
    OneLate,
    FirstSequence,
    NotInTraining,
    NotInEvaluation,
    NotInLongSequences,
    EvenDocuments,
    Faint,
]


@pytest.mark.parametrize("cls", LEAKS)
def test_attention_across_documents_is_found(cls):
    """The report would say that documents are masked."""
    (violation,) = [f for f in check_model(architecture(cls), SHAPE, MASKED) if f.fatal]
    assert violation.check == "documents"
    assert "depends on document" in violation.message or "another document" in violation.message


def test_mask_that_hides_the_own_document_is_found():
    """It would be reported as the price of masked documents."""
    (violation,) = check_model(architecture(OwnTokenOnly), SHAPE, MASKED)
    assert violation.check == "documents"
    assert "only if documents are not masked" in violation.message


@pytest.mark.parametrize("name", registry.files("attention"))
def test_shipped_attention_passes(name):
    """A false alarm would refuse every masked study."""
    cls = registry.load("attention", name)
    assert check_model(architecture(cls, OPTIONS.get(name, {})), SHAPE, MASKED) == []


def test_only_masked_studies_are_checked():
    assert check_model(architecture(Ignored), SHAPE) == []
