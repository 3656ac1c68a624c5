"""Networks for other runtimes: StableHLO, SavedModel, LiteRT and ONNX."""
