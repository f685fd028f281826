"""Named builders of semi-conditional flows, with plain arguments."""

from scnf_jax.models.build import build_model, with_defaults
from scnf_jax.models.glow import glow, gmm
from scnf_jax.models.m1m2 import StackedVAE, m1m2
from scnf_jax.models.paper import paper
from scnf_jax.models.vector import vector

__all__ = ["StackedVAE", "build_model", "glow", "gmm", "m1m2", "paper", "vector", "with_defaults"]
