"""What the machine can do at most, measured beside what is timed: multiply-adds of float32, and copies."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

STEPS = 200_000  # for each accumulator: a few milliseconds
SOURCE = r"""
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int width = 16;
#elif defined(__AVX2__)
constexpr int width = 8;
#else
constexpr int width = 4;
#endif
constexpr int accumulators = 12;  // more than latency times pipes asks for, and all in registers
typedef float vector __attribute__((vector_size(4 * width)));

static void work(long steps, float* out) {
  vector sums[accumulators];
#pragma GCC unroll 12
  for (int i = 0; i < accumulators; ++i) sums[i] = vector{} + float(i + 2);
  vector factor = vector{} + 0.999f, term = vector{} + 1e-3f;
  for (long step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < accumulators; ++i) sums[i] = sums[i] * factor + term;
    asm volatile("" : "+m"(*out));  // a compiler may not reason the loop away
  }
#pragma GCC unroll 12
  for (int i = 1; i < accumulators; ++i) sums[0] += sums[i];
  *out = sums[0][0];
}

// Two new threads may be started on one core and stay there for as long as this takes, so each goes to its own.
static void settle(int index) {
#if defined(__linux__)
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) <= index) return;
  int core = -1;
  for (int found = -1; found < index;) found += CPU_ISSET(++core, &allowed) ? 1 : 0;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  sched_setaffinity(0, sizeof one, &one);  // of this thread
#endif
}

// Seconds from when all threads run until the last is done: how long they take to start is not the machine's speed.
extern "C" double run(int threads, long steps) {
  using clock = std::chrono::steady_clock;
  std::vector<float> out(64 * threads);
  std::vector<clock::time_point> ends(threads);
  std::atomic<int> missing{threads};
  clock::time_point start;
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] {
      settle(i);
      if (--missing == 0) start = clock::now();
      while (missing > 0) std::this_thread::yield();
      work(steps, &out[64 * i]);
      ends[i] = clock::now();
    });
  }
  for (auto& each : workers) each.join();
  return std::chrono::duration<double>(*std::max_element(ends.begin(), ends.end()) - start).count();
}

extern "C" double operations(int threads, long steps) { return 2.0 * width * accumulators * double(steps) * threads; }
"""


@dataclass(frozen=True)
class Peak:
    """A way of measuring how many floating-point operations a second the machine does at most."""

    name: str
    operations: float  # of one call
    call: Callable[[], float | None]  # which may tell the seconds it took by a clock of its own


@cache
def multiply_adds(device: str) -> Peak:
    """Multiply-adds on all of PyTorch's threads; where none can be compiled, and on a GPU, a matrix product."""
    threads = torch.get_num_threads()
    library = compiled() if device == "cpu" else None
    if library is not None:
        return Peak(
            f"float32 multiply-adds in registers on {threads} threads",
            float(library.operations(threads, STEPS)),
            lambda: float(library.run(threads, STEPS)),
        )
    size = 8192 if device == "cuda" else 1024
    a, b, out = (torch.ones(size, size, device=device) for _ in range(3))

    def multiply() -> None:
        torch.mm(a, b, out=out)

    return Peak(f"PyTorch's float32 matrix product on {device}", 2.0 * size**3, multiply)


def compiled() -> ctypes.CDLL | None:
    """The loop above, or None where no compiler makes it."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="lightsr-bench-") as folder:
        source, target = Path(folder, "peak.cpp"), Path(folder, "peak.so")
        source.write_text(SOURCE, encoding="utf-8")
        command = [*compiler.split(), "-O3", "-march=native", "-shared", "-fPIC", "-pthread", str(source), "-o"]
        if subprocess.run([*command, str(target)], capture_output=True, check=False).returncode != 0:
            return None
        library = ctypes.CDLL(str(target))
    for function in (library.run, library.operations):
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int, ctypes.c_long]
    return library


def copy_of(x: Tensor) -> Callable[[], None]:
    """A copy of a picture of this size into memory that is there already."""
    target = torch.empty_like(x)

    def copy() -> None:
        target.copy_(x)

    return copy
