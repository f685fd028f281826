"""Semi-conditional normalizing flows in JAX."""

from scnf_jax import bijectors, conditioners, models
from scnf_jax.loading import load_run
from scnf_jax.scnf import Latents, SemiConditionalFlow, semi_conditional_flow

__all__ = [
    "Latents",
    "SemiConditionalFlow",
    "bijectors",
    "conditioners",
    "load_run",
    "models",
    "semi_conditional_flow",
]
__version__ = "0.1.0"
