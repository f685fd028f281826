"""A circle inside a circle, 10 labels of 1,000 points.

    python train.py --config=configs/circles.py

40 s on 2 cores, start and figures included. Expect at most 0.5% error on 1,000 test points
(label draws 0-4: 0.0, 0.5, 0.0, 0.0, 0.0), and 0.66-0.68 bits/dim (differential).
"""

from ml_collections import ConfigDict

from configs import moons


def get_config(mode: str = "full") -> ConfigDict:
    """The settings of ``configs/moons.py`` on the other set of points, with the same modes."""
    config = moons.get_config(mode)
    config.dataset = "circles"
    return config
