"""Pure-function bijectors with log-determinants; they import jax and NumPy alone."""

from scnf_jax.bijectors.actnorm import actnorm
from scnf_jax.bijectors.base import Bijector, Conditioner
from scnf_jax.bijectors.combinators import chain, identity, invert, multiscale, repeat
from scnf_jax.bijectors.coupling import additive_coupling, affine_coupling
from scnf_jax.bijectors.gaussianization import marginal_gaussianization
from scnf_jax.bijectors.linear import invertible_linear
from scnf_jax.bijectors.logit import logit
from scnf_jax.bijectors.mixture import mixture_coupling
from scnf_jax.bijectors.shape import flatten, permute, reverse, squeeze
from scnf_jax.bijectors.shift import conditional_shift
from scnf_jax.bijectors.spline import spline_coupling

__all__ = [
    "Bijector",
    "Conditioner",
    "actnorm",
    "additive_coupling",
    "affine_coupling",
    "chain",
    "conditional_shift",
    "flatten",
    "identity",
    "invert",
    "invertible_linear",
    "logit",
    "marginal_gaussianization",
    "mixture_coupling",
    "multiscale",
    "permute",
    "repeat",
    "reverse",
    "spline_coupling",
    "squeeze",
]
