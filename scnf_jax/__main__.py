"""``python -m scnf_jax VERB``: what to do with trained runs."""

import argparse
import logging
import sys
from collections.abc import Sequence

from scnf_jax.checkpoints import CheckpointError
from scnf_jax.verbs import VERBS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scnf_jax", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        word = verb.help.split()[0].rstrip(",")
        start = word.capitalize() if word.isalpha() else word  # such as p(y|x)
        described = start + verb.help.removeprefix(word) + "."
        one = verbs.add_parser(
            verb.name, help=verb.help, description=described, epilog=f"example: {verb.example}"
        )
        verb.add_arguments(one)
        one.set_defaults(verb=verb)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; what is wrong with its input or output is one line and exit code 2.

    Ctrl-C ends it with 130.
    """
    arguments = _parser().parse_args(argv)
    logging.getLogger("absl").setLevel(logging.ERROR)  # the libraries log their own progress
    try:
        print(arguments.verb.run(arguments))
    except (ValueError, OSError, CheckpointError) as error:
        sys.stderr.write(f"scnf_jax: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
