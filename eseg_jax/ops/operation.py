"""Operations as single nodes of a trace, for those who write it for other runtimes.

The forms that are fast under XLA, such as a depthwise convolution as a sum of slices,
are the wrong ones elsewhere. Within `as_nodes()` an operation leaves one equation of
`operation_p` in the jaxpr instead, with the function and its options as parameters.
"""

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterator

import jax
from jax.extend.core import Primitive

_as_nodes = contextvars.ContextVar("as_nodes", default=False)
operation_p = Primitive("operation")


@operation_p.def_impl
def _run(*arrays, function, **options):
    return function(*arrays, **options)


@operation_p.def_abstract_eval
def _shape(first, *others, function, **options):
    out = jax.eval_shape(functools.partial(function, **options), first, *others)
    return first.update(shape=out.shape, dtype=out.dtype)


@contextlib.contextmanager
def as_nodes() -> Iterator[None]:
    """Within it, traces show operations whole. They cannot be differentiated there."""
    token = _as_nodes.set(True)
    try:
        yield
    finally:
        _as_nodes.reset(token)


def operation(function: Callable) -> Callable:
    """Decorates an operation: arrays first, then options that can be hashed."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        if not _as_nodes.get():
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arrays, options = [], {}
        for name, value in bound.arguments.items():
            if hasattr(value, "ndim"):
                arrays.append(value)
            else:
                options[name] = value
        return operation_p.bind(*arrays, function=function, **options)

    return call
