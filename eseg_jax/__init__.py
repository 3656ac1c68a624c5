"""Real-time semantic segmentation in JAX: ESeg, SFNet, DFANet and FRFNet."""

__version__ = "0.1.0"


def load(path, *, weights: str = "ema", **protocol):
    """Loads a trained network: `eseg_jax.load(path)(image)` is its `Segmentation`.

    Args:
      path: a run's workdir (its latest checkpoint), a folder `checkpoints/STEP`, or a
        file of tools.export (ONNX, LiteRT, StableHLO, the folder of a SavedModel).
      weights: "ema", the moving averages, or "raw"; an export has its own.
      **protocol: fields of `eseg_jax.protocols.Protocol`, such as scales=(0.5, 1, 2),
        flip=True; those of the configuration's `eval` by default.

    Returns:
      an `eseg_jax.inference.Predictor`: called with uint8 [h, w, 3] RGB or the path of
      a file it returns a `Segmentation` with labels, probabilities, confidence,
      overlay().

    Raises:
      eseg_jax.checkpoint.CheckpointError: there is no checkpoint, or it is another
        model's.
    """
    # JAX and Flax are imported when a network is loaded, not with the package.
    from eseg_jax import inference

    return inference.load(path, weights=weights, **protocol)
