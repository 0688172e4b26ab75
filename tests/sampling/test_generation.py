"""The KV cache and the end of the context change the speed and never the text."""

import pytest
import torch

from harness.errors import UserError
from harness.model.builder import ModelBuilder
from harness.model.generation import GenerationPlan, decode, plan_generation
from harness.model.weights import load_weights
from harness.published.convert import import_weights
from harness.results.records import VariantChoice
from harness.sampling.sampler import Sampler, Sampling

PROMPT = [7, 200, 31]


def load(path, **changed):
    """Return the model of a checkpoint folder, with some of its variants replaced."""
    weights = load_weights(path)
    axes = weights.axes | {
        axis: VariantChoice(label="", **choice) for axis, choice in changed.items()
    }
    model = ModelBuilder(weights.shape, axes, []).model()
    model.load_state_dict(weights.tensors, assign=True)
    return model.eval()


def greedy(model, prompt, n_new, length=None, n_samples=1):
    """Decode with the KV cache."""
    caches = model.caches(n_samples, length or len(prompt) + n_new, torch.float32)
    prompt_BT = torch.tensor(prompt).expand(n_samples, -1)
    return list(
        decode(model, prompt_BT, n_new, caches, Sampler(Sampling(temperature=0), 0, n_samples))
    )


@torch.no_grad()
def full_forward(model, prompt, n_new):
    """Decode without a cache: the whole text through the model for each token."""
    tokens = list(prompt)
    for _ in range(n_new):
        tokens.append(model.logits(torch.tensor([tokens]))[0, -1].argmax().item())
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    "variants",
    [
        {},
        {"positional": "sinusoidal"},
        {"positional": "none"},
        {"attention": "gqa", "n_kv_head": 2, "positional": "rope"},
        {"attention": "sliding_window", "window": 5},
    ],
)
def test_greedy_decoding_is_the_argmax_of_full_forward_passes(save, variants):
    model = load(save(**variants))
    expected = full_forward(model, PROMPT, 14)  # up to the last token that a context of 16 defines
    assert greedy(model, PROMPT, 14, n_samples=2) == [[token, token] for token in expected]
    assert len(set(expected)) > 3


@pytest.mark.parametrize("prompt", [PROMPT, list(range(40, 56))], ids=["short", "full"])
@pytest.mark.parametrize("positional", ["rope", "sinusoidal", "none"])
def test_beyond_the_context_tokens_see_the_last_positions(save, positional, prompt):
    path = save(positional=positional)
    window = load(path, attention={"name": "sliding_window", "options": {"window": 16}})
    expected = full_forward(window, prompt, 50)
    assert [token for (token,) in greedy(load(path), prompt, 50, length=16)] == expected
    assert expected != full_forward(load(path), prompt, 50)


def test_a_context_with_extrapolation_slides():
    assert plan_generation([1, 2, 3], 5, 16, True, "rope") == GenerationPlan([1, 2, 3], 5, 8)
    assert plan_generation([1, 2, 3], 500, 16, True, "rope") == GenerationPlan([1, 2, 3], 500, 16)
    assert plan_generation(list(range(16)), 500, 16, True, "rope") == GenerationPlan(
        list(range(16)), 500, 16
    )
    long = plan_generation(list(range(20)), 500, 16, True, "rope")
    assert (long.prompt, long.n_new, long.n_cached, long.stop_note) == (
        list(range(4, 20)),
        500,
        16,
        None,
    )
    assert long.truncation_note == ("the prompt has 20 tokens; only the last 16 fit the context")


@pytest.mark.parametrize(("n_prompt", "n_new"), [(1, 16), (3, 14), (15, 2), (16, 1)])
def test_without_extrapolation_one_token_follows_the_context(save, n_prompt, n_new):
    prompt = list(range(n_prompt))
    assert plan_generation(prompt, n_new, 16, False, "learned") == GenerationPlan(prompt, n_new, 16)
    longer = plan_generation(prompt, 200, 16, False, "learned")
    assert (longer.prompt, longer.n_new, longer.n_cached, longer.truncation_note) == (
        prompt,
        n_new,
        16,
        None,
    )
    assert longer.stop_note == (
        f"stopped after {n_new} of 200 tokens: the context of 16 learned positions is full; "
        "a relative positional encoding would slide"
    )
    model = load(save())
    assert len(greedy(model, prompt, n_new)) == n_new
    with pytest.raises(IndexError):
        greedy(model, prompt, n_new + 1)


def test_a_prompt_longer_than_the_context_is_rejected():
    with pytest.raises(
        UserError, match=r"--prompt: 17 tokens, but the context has 16 learned positions"
    ):
        plan_generation(list(range(17)), 1, 16, False, "learned")


def test_a_sample_does_not_depend_on_the_number_of_samples(save):
    model = load(save(positional="rope"))

    def samples(n, seed=5):
        prompt_BT = torch.tensor(PROMPT).expand(n, -1)
        sampler = Sampler(Sampling(temperature=0.8, top_k=100, top_p=0.95), seed, n)
        steps = decode(model, prompt_BT, 60, model.caches(n, 16, torch.float32), sampler)
        return [list(sample) for sample in zip(*steps, strict=True)]

    three = samples(3)
    assert samples(3) == three
    assert samples(1) == three[:1] and samples(2) == three[:2]
    assert three[0] != three[1] != three[2] and samples(3, seed=6) != three


def test_transformers_generates_the_same_tokens(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2,
        n_head=4,
        n_embd=32,
        n_positions=128,
        vocab_size=99,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.3,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    weights = import_weights(str(tmp_path / "theirs"), tmp_path / "ours")
    prompt = torch.tensor([[5, 17, 80]])
    mask = torch.ones_like(prompt)
    expected = theirs.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=100)[
        0, 3:
    ].tolist()
    assert [token for (token,) in greedy(load(tmp_path / "ours"), [5, 17, 80], 100)] == expected
    assert len(set(expected)) > 5
    assert weights.tokenizer is None
