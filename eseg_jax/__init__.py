"""Real-time semantic segmentation in JAX: ESeg, SFNet, DFANet and FRFNet."""

__version__ = "0.1.0"
