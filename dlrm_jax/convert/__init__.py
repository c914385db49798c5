"""Models to and from the checkpoints of facebookresearch/dlrm and torchrec."""
