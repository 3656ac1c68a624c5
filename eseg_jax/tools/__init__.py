"""Commands, one a file: `python -m eseg_jax.tools.<name>`."""
