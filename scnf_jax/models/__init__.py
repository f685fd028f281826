"""Named builders of semi-conditional flows, and of two models without a density."""

from scnf_jax.models.build import BUILDERS, Model, build_model, with_defaults
from scnf_jax.models.classifier import Classifier, classifier
from scnf_jax.models.glow import glow, gmm
from scnf_jax.models.m1m2 import StackedVAE, m1m2
from scnf_jax.models.paper import paper
from scnf_jax.models.vector import vector

__all__ = [
    "BUILDERS",
    "Classifier",
    "Model",
    "StackedVAE",
    "build_model",
    "classifier",
    "glow",
    "gmm",
    "m1m2",
    "paper",
    "vector",
    "with_defaults",
]
