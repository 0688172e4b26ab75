"""Continue a prompt with a trained model."""
