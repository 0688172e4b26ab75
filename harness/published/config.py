"""Fields of config.json that all layouts share: sizes, tokens, precision, and unknown fields."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch

from harness.data.tokenizers import END_OF_TEXT
from harness.errors import Problem, UserError
from harness.model.weights import Weights
from harness.published.files import CONFIG_FILE, Json

TIED = "tie_word_embeddings"
MAX_SIZE = 2**31 - 1  # larger ones are no size of a tensor
# Fields that do not change the logits. Others are refused: they may be those of another model.
WITHOUT_EFFECT = frozenset(
    """
    architectures bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label
    initializer_range is_decoder label2id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_past output_scores pad_token_id prefix
    problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers_version
    typical_p use_bfloat16 use_cache
    """.split()
)


def common_fields(weights: Weights) -> Json:
    """Return the fields whose defaults differ between layouts and versions of `transformers`."""
    embedding = weights.tensors["wte.weight"]
    dtype = str(embedding.dtype).removeprefix("torch.")
    end_of_text = END_OF_TEXT.get(weights.tokenizer or "")
    if end_of_text is not None and end_of_text >= weights.shape.vocab_size:
        end_of_text = None
    return {
        "vocab_size": weights.shape.vocab_size,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        "initializer_range": weights.shape.init_std,
        "dtype": dtype,
        "torch_dtype": dtype,  # its name before version 4.56
        "use_cache": True,
        TIED: weights.shape.tie_embeddings,
    }


def stated_sizes(
    config: Mapping[str, object], keys: Iterable[str], aliases: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Return the sizes that a config states, and its invalid ones as {field: message}.

    `aliases` maps other names to those of `keys`.
    """
    stated: dict[str, int] = {}
    messages = {}
    for key in (*keys, *aliases):
        value = config.get(key)
        if value is None:
            continue
        name = aliases.get(key, key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
            messages[key] = f"{value!r}: must be a positive integer up to {MAX_SIZE:,}"
        elif stated.setdefault(name, value) != value:
            messages[key] = f"{value}, but {name} = {stated[name]}; they mean the same"
    return stated, messages


def other_computations(
    config: Mapping[str, object],
    computation: Mapping[str, tuple[object, ...]],
    known: Collection[str],
    model: str,
) -> dict[str, str]:
    """Return the fields by which the weights compute something else than `model`.

    `computation` has the allowed values of the fields that change it; `known` are checked elsewhere
    or have no effect.
    """
    messages = {}
    for key, value in config.items():
        if key in computation:
            if not _is_one_of(value, computation[key]):
                allowed = " or ".join(map(json.dumps, computation[key]))
                messages[key] = f"{json.dumps(value)}: must be {allowed}, as in {model}"
        elif key not in WITHOUT_EFFECT and key not in known and not key.startswith("_"):
            messages[key] = f"not a field of {model}; remove it if it does not change the logits"
    return messages


def _is_one_of(value: object, allowed: Iterable[object]) -> bool:
    """Return whether a value is allowed; 0 and 1 are not false and true."""
    return any(value == other and type(value) is type(other) for other in allowed)


def missing_head(config: Mapping[str, object], has_head: bool) -> dict[str, str]:
    """Return the message on a config that unties an output projection which the weights lack."""
    if config.get(TIED, True) is not False or has_head:
        return {}
    reason = "the weights have no lm_head.weight; set it to true if they use the embedding"
    return {TIED: f"false, but {reason}"}


def other_precision(config: Mapping[str, object], dtype: torch.dtype) -> dict[str, str]:
    """Return the fields that state another precision than that of the weights."""
    actual = str(dtype).removeprefix("torch.")
    messages = {}
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in (None, "auto", actual):
            messages[key] = f"{config[key]}, but the weights are {actual}"
    return messages


def raise_if_any(messages: Mapping[str, str], source: Path) -> None:
    """Raise a `UserError` with all messages, if there are any, by their fields of config.json."""
    if messages:
        location = f"{source}: {CONFIG_FILE}"
        raise UserError(Problem(f"{location}: {key}", text) for key, text in messages.items())
