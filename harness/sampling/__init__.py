"""Continue a prompt with a trained model: how a token is drawn, how many the context allows, how the text comes out."""
