"""Named builders of semi-conditional flows, with plain arguments."""

from scnf_jax.models.build import build_model
from scnf_jax.models.glow import glow, gmm
from scnf_jax.models.paper import paper
from scnf_jax.models.vector import vector

__all__ = ["build_model", "glow", "gmm", "paper", "vector"]
