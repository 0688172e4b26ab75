"""Files of the cache of tokenized texts: their content is checked before it is used."""

from typing import Literal

from pydantic import Field

from harness.results.records.base import Count, Finite, Positive, StrictModel, Versioned
from harness.results.records.run_spec import SourceFile
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


class TokenShard(StrictModel):
    """A file of tokens that `data prepare` has written."""

    file: str = Field(description="name of the file")
    split: Literal["train", "val"] = Field(description="training or validation tokens")
    tokens: Positive = Field(description="number of tokens")
    pieces: Positive = Field(description="number of documents, or parts of long ones")
    sha256: str = Field(description="SHA-256 of the file")


class ShardManifest(Versioned):
    """manifest.json: the sources of the token files of a folder."""

    source: str = Field(description="path, glob or name of the text")
    sources: list[SourceFile] = Field(description="files of the text")
    tokenizer: str = Field(description="tiktoken encoding")
    text_column: str = Field(description="column of the documents in tables")
    shard_tokens: Positive = Field(description="minimum number of tokens of a file but the last")
    val_fraction: Finite = Field(description="share of the validation text")
    code: str = Field(description="hash of the code of the tokenization")
    complete: bool = Field(description="whether all tokens are written")
    shards: list[TokenShard] = Field(description="files of tokens")
