"""Files of the cache of tokenized texts: their content is checked before it is used."""

from pydantic import Field

from harness.results.records.base import Count, Finite, StrictModel
from harness.results.records.settings import TokenDtype


class TokenFileScan(StrictModel):
    """The content of a token file, while its size and times are the same."""

    path: str = Field(description="path of the file")
    size: Count = Field(description="size, bytes")
    mtime_ns: int = Field(description="time of its last change, ns")
    ctime_ns: int = Field(description="time of its last change of content or attributes, ns")
    sha256: str = Field(description="SHA-256 of the file")
    dtype: TokenDtype = Field(
        default="uint16", description="type of the tokens in a file without a header"
    )
    max_token: Count = Field(description="largest token")


class TokenizedText(StrictModel):
    """The tokens of a text in the .bin file of the same name."""

    sha256: str = Field(description="SHA-256 of the text")
    tokens_sha256: str = Field(description="SHA-256 of the file of tokens")
    dtype: TokenDtype = Field(default="uint16", description="type of the tokens")
    n_train: Count = Field(description="training tokens, which come first")
    n_val: Count = Field(description="validation tokens")
    entropy: Finite | None = Field(
        description="entropy of the validation part, nats per byte; null if unknown"
    )
