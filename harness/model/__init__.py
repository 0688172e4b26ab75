"""The GPT-2 model: architecture, initialization, weights, decoding."""
