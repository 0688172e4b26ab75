"""Text corpora, tokenizers, and the batches of every step."""
