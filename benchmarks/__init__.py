"""Speed as ratios against named alternatives, measured in one run on one machine: `python -m benchmarks.NAME`."""
