"""Proof that compiled graphs compute what PyTorch computes."""
