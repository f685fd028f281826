"""Which objects to label next."""

from typing import NamedTuple

import numpy as np

from scnf_jax.metrics import margins

_OF_A_GROUP = 10
_SHOWN = 10


class Suggestions(NamedTuple):
    """Objects whose label would tell a model most, the most doubtful group first.

    Attributes:
      row: of each object ``[n]``.
      guess: what the model takes it for.
      margin: mean margin of its group in nats; see :func:`~scnf_jax.metrics.margins`.
      size: objects in its group.
      group: ``[n, 10]``, those of its group next to the centre, itself first; -1 where there are
        fewer.
    """

    row: np.ndarray
    guess: np.ndarray
    margin: np.ndarray
    size: np.ndarray
    group: np.ndarray


def suggest(
    z: np.ndarray,
    log_posterior: np.ndarray,
    known: np.ndarray,
    count: int,
    num_groups: int = 200,
    seed: int = 0,
) -> Suggestions:
    """Suggests objects to label, one of each of the groups that a model is least sure of.

    What a model gets wrong after few labels is less often one odd object than a whole way of
    writing a class that has no label yet, and it can be sure of each of them. So objects are put
    into groups by k-means on ``z``, groups are ranked by their mean margin, and the object next to
    a group's centre is asked for. Groups with a known label are passed over: they have been asked.

    Args:
      z: representations ``[N, D]`` that carry the class, such as ``z_f``.
      log_posterior: ``log p(y|x) [N, K]``, K at least 2.
      known: bool ``[N]``, objects that have a label.
      count: objects to suggest; fewer where there are not as many groups without a label.
      num_groups: at most; as many as make ten objects a group where that is less.
      seed: of k-means.

    Returns:
      The suggestions.

    Raises:
      ValueError: for a ``count`` below 1, or where no object is left to ask for.

    References:
      Hacohen, Dekel, Weinshall 2022, "Active Learning on a Budget: Opposite Strategies Suit High
      and Low Budgets", section 3 (typical objects of clusters without a label),
      https://arxiv.org/abs/2202.02794; here the least sure clusters come first, not the largest.
    """
    from sklearn.cluster import KMeans

    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if known.all():
        raise ValueError("suggest: expected objects without a label, got none")
    num_groups = max(min(num_groups, len(z) // _OF_A_GROUP), 1)
    means = KMeans(num_groups, n_init=1, random_state=seed).fit(z)
    margin = np.nan_to_num(margins(log_posterior), nan=0.0)  # nothing known: as unsure as can be
    found = []
    for number, centre in enumerate(means.cluster_centers_):
        members = np.flatnonzero(means.labels_ == number)
        if len(members) and not known[members].any():
            distance = np.sum((z[members] - centre) ** 2, -1)
            found.append((margin[members].mean(), members[np.argsort(distance, kind="stable")]))
    chosen = sorted(found, key=lambda pair: pair[0])[:count]
    if not chosen:
        raise ValueError(
            f"suggest: expected groups without a label, each of the {num_groups} has one; choose "
            f"from more objects, or ask for more groups, of which {len(z)} objects make "
            f"{len(z) // _OF_A_GROUP} at most"
        )
    group = np.full((len(chosen), _SHOWN), -1)
    for shown, (_, members) in zip(group, chosen, strict=True):
        shown[: len(members)] = members[:_SHOWN]
    row = group[:, 0]
    return Suggestions(
        row,
        np.argmax(log_posterior[row], -1),
        np.array([mean for mean, _ in chosen]),
        np.array([len(members) for _, members in chosen]),
        group,
    )
