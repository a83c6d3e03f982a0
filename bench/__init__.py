"""Benches: ours beside what a user would pick instead, in one run."""

import os
import sys

# GNU OpenMP reads this once, when torch loads it. Threads that wait by spinning take the core from whoever is timed next.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
