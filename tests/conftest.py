"""Settings of the whole suite."""

import jax

# Most of the suite's time is compiling small programs that then run once.
jax.config.update("jax_disable_most_optimizations", True)
