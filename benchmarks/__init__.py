"""Speed and memory against plain baselines, measured side by side: `python -m benchmarks.run` (docs/performance.md)."""
