"""Adaptive Entropy Regularization (AER) for reinforcement learning with verifiable rewards, on PyTorch Lightning."""

__version__ = "0.1.0"
