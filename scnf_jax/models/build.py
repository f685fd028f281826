"""From a name and plain settings to a model."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scnf_jax.models.classifier import Classifier, classifier
from scnf_jax.models.glow import glow, glow_body, gmm
from scnf_jax.models.m1m2 import StackedVAE, m1m2
from scnf_jax.models.paper import paper
from scnf_jax.models.vector import vector
from scnf_jax.options import suggest
from scnf_jax.scnf import SemiConditionalFlow

Model = SemiConditionalFlow | StackedVAE | Classifier
# By the name in a config, `(event_shape, num_classes, **settings) -> model`; others may be added.
BUILDERS: dict[str, Callable[..., Model]] = {
    "classifier": classifier,
    "glow": glow,
    "gmm": gmm,
    "m1m2": m1m2,
    "paper": paper,
    "vector": vector,
}


def build_model(settings: Mapping[str, Any], event_shape: Sequence[int], num_classes: int) -> Model:
    """Builds the model that a config names.

    Args:
      settings: ``name`` of a builder, and its keyword arguments.
      event_shape: of one object.
      num_classes: K.

    Returns:
      The model.

    Raises:
      ValueError: for an unknown name or setting, with a suggestion, or a wrong value.
    """
    arguments = dict(settings)
    name = str(arguments.pop("name", None))
    if name not in BUILDERS:
        raise ValueError(f"model.name: no builder {name!r}; {suggest(name, BUILDERS)}")
    known = _defaults(BUILDERS[name])
    for key in arguments:
        if key not in known:
            raise ValueError(f"model.{key}: no such setting of {name}; {suggest(key, known)}")
    try:
        return BUILDERS[name](event_shape, num_classes, **arguments)
    except TypeError as error:  # a value of a wrong type, or one that has to be given
        raise ValueError(f"model: {error}") from error


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model and the defaults of those that are not given.

    So settings that were saved before their builder had one more equal those of now that name it
    at its default.
    """
    builder = BUILDERS.get(str(settings.get("name")))
    return dict(settings) if builder is None else {**_defaults(builder), **settings}


def _defaults(builder: Callable[..., Any]) -> dict[str, Any]:
    """Keyword arguments and their defaults, those of a body that it hands on included."""
    defaults: dict[str, Any] = {}
    for parameter in inspect.signature(builder).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            defaults[parameter.name] = parameter.default
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            defaults |= _defaults(glow_body)
    return defaults
