"""What every report needs of a run, checked before anything is made of it, so that damage is found and named."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.results.store import Json, StoreError

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Choice(_Form):
    label: str
    name: str
    options: dict[str, Any]


class _Model(_Form):
    seq_len: Annotated[int, Field(ge=1)]


class _Data(_Form):
    corpus: str
    tokenizer: str
    entropy_nats_per_byte: Finite | None = None


class _Expected(_Form):
    parameters: int
    flops_per_token: Finite
    memory_bytes: Finite | None


class _Spec(_Form):
    settings_hash: str
    entry_id: str
    seed: int
    data_seed: int | None = None
    baseline: dict[str, str]
    axes: dict[str, _Choice]
    model: _Model
    data: _Data
    train: dict[str, Any]
    expected: _Expected


class _Memory(_Form):
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    other: int
    peak: Annotated[int, Field(gt=0)]
    resident_peak: int | None


class _Peak(_Form):
    value: Annotated[Finite, Field(gt=0)] | None
    source: str


class _Probes(_Form):
    memory: Annotated[list[_Memory], Field(min_length=1)]
    parameters: int
    flops_per_token: Finite
    flops_per_token_counted: Finite | None = None
    initial_hash: str | None
    peak_flops: _Peak
    attention_kernels: list[str] = []


FORMS: dict[Literal["spec.json", "probes.json"], type[_Form]] = {
    "spec.json": _Spec,
    "probes.json": _Probes,
}


def check(name: Literal["spec.json", "probes.json"], content: Json) -> None:
    """See that a file has what every report needs.

    Raises:
        StoreError: it has not; the message names the file and the first key in question.
    """
    try:
        FORMS[name].model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreError(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
