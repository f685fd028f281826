"""What a person sees while a run trains."""

import sys
from collections.abc import Mapping


class Progress:
    """A bar with time left on a terminal, plain lines elsewhere.

    Args:
      total: steps of the run.
      done: steps that an earlier part of the run has done.
      shown: whether anything is printed.
    """

    def __init__(self, total: int, done: int, shown: bool = True) -> None:
        self._total = total
        self._shown = shown
        self._bar = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)

    def advance(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Moves on by ``steps``; the newest metrics stand beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(_format(metrics), refresh=False)
            self._bar.update(steps)

    def line(self, step: int, metrics: Mapping[str, float]) -> None:
        """Prints one line that stays."""
        self.note(f"step {step}/{self._total}  {_format(metrics)}")

    def note(self, text: str) -> None:
        """Prints any line that stays."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._shown:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def _format(metrics: Mapping[str, float]) -> str:
    def shown(value: float) -> str:
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

    return "  ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in metrics.items())
