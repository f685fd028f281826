"""Mean and spread of runs that differ in their seeds.

python benchmarks/summarize.py runs/digits-0 runs/digits-1 runs/digits-2
"""

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    """Prints error and bits/dim over the runs; one that diverged is counted, not averaged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    summaries = [
        json.loads((folder / "summary.json").read_text()) for folder in parser.parse_args().runs
    ]
    finished = [summary for summary in summaries if summary["status"] == "finished"]
    print(f"{len(finished)} of {len(summaries)} runs finished")
    for key, unit in (
        ("test_error_percent", "%"),
        ("bits_per_dim", "bits/dim"),
        ("train_seconds", "s"),
    ):
        values = [summary[key] for summary in finished]
        spread = f" ± {np.std(values, ddof=1):.3g}" if len(values) > 1 else ""
        listed = " ".join(f"{value:.4g}" for value in values)
        print(f"{key}: {np.mean(values):.4g}{spread} {unit} ({listed})")


if __name__ == "__main__":
    main()
