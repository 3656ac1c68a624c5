"""Batch normalisation by the statistics of the batch, with its gradient by hand.

The derivative that JAX finds goes through the mean and the mean of squares one after
the other. Written out, all sums over the batch are of one pass over x and the
gradient, and the result is another.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from eseg_jax.ops.windows import sum_type


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by its mean and variance over the batch.

    Args:
      x: `[n,h,w,c]`, any float dtype; statistics are of float32 or better.
      scale, bias: `[c]`.
      epsilon: added to the variance.

    Returns:
      (x - mean) / sqrt(variance + epsilon) * scale + bias, with x's shape and dtype;
      the mean and the variance (divided by n * h * w), `[c]` and without gradient.
      Differentiable in reverse mode only.
    """
    return _forward(x, scale, bias, epsilon)[0]


def normalise(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
) -> jax.Array:
    """The same by a mean and a variance `[c]` that are given."""
    factor = lax.rsqrt(variance + epsilon) * scale
    y = _centred(x, mean) * _spread(factor) + _spread(bias)
    return y.astype(x.dtype)


def _forward(x, scale, bias, epsilon):
    wide = x.astype(sum_type(x.dtype))
    mean, of_squares = (jnp.mean(y, axis=(0, 1, 2)) for y in (wide, wide * wide))
    variance = jnp.maximum(of_squares - mean * mean, 0)
    y = normalise(x, mean, variance, scale, bias, epsilon)
    return (y, mean, variance), (x, scale, mean, variance)


def _backward(epsilon, residuals, cotangents):
    x, scale, mean, variance = residuals
    g, inverse = cotangents[0].astype(mean.dtype), lax.rsqrt(variance + epsilon)
    centred = _centred(x, mean)
    of_g, of_products = (jnp.sum(y, axis=(0, 1, 2)) for y in (g, g * centred))
    count = x.size // x.shape[-1]
    # Less what the mean and the variance take back.
    dx = g - _spread(of_g / count) - centred * _spread(inverse**2 * of_products / count)
    dx = (_spread(scale * inverse) * dx).astype(x.dtype)
    return dx, (inverse * of_products).astype(scale.dtype), of_g.astype(scale.dtype)


def _centred(x, mean):
    return x.astype(sum_type(x.dtype)) - _spread(mean)


def _spread(channels):
    return channels.reshape(1, 1, 1, -1)


batch_norm.defvjp(_forward, _backward)
