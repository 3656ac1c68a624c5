"""Operations whose fastest form differs from the library's default one."""

from eseg_jax.ops.conv import conv
from eseg_jax.ops.depthwise import depthwise_conv
from eseg_jax.ops.pool import avg_pool, max_pool
from eseg_jax.ops.resize import resize_bilinear, resize_nearest

__all__ = [
    "avg_pool",
    "conv",
    "depthwise_conv",
    "max_pool",
    "resize_bilinear",
    "resize_nearest",
]
