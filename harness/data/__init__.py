"""Text and tokens: found, checked and tokenised once, before anything starts. No torch."""
