"""Models: dense features and vectors in, logits out."""
