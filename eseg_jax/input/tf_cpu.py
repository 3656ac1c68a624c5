"""TensorFlow as the input uses it: on the host only.

Every module of the input imports `tf` from here, so accelerators are hidden from
TensorFlow before anything can make it claim their memory.
"""

import os

# What goes wrong is raised as well as logged, and of oneDNN the input has no use.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf  # noqa: E402

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
