"""Everything about an NVIDIA GPU in one command: is it right there, how fast, against whom, and how far from the floor.

`python -m bench.gpu_report --out DIR` from a checkout. Each section writes what it has found into DIR/report.json as it
goes, so that a time limit loses nothing; the page and the plots are made from that file alone.
"""
