"""Encoders: each module maps images to {stride: feature}."""
