"""What a run shows: logs, progress, figures."""
