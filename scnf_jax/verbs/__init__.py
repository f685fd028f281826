"""The verbs of ``python -m scnf_jax``, one module a purpose."""

from scnf_jax.verbs import generating, labelling, scoring, sharing, studying
from scnf_jax.verbs.common import Verb

VERBS: tuple[Verb, ...] = (
    *scoring.VERBS,
    *generating.VERBS,
    *labelling.VERBS,
    *studying.VERBS,
    *sharing.VERBS,
)

__all__ = ["VERBS", "Verb"]
