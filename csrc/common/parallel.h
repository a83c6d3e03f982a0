// Work of many tasks over torch's own threads, and each thread's scratch memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "simd.h"

namespace lightsr {

// Runs run(task) for each task below count, each once. Every thread has a share of them and goes through it in order,
// so that what a task left in the thread's caches serves the next; one that is done takes what others have left, so
// that a thread which the machine slows down does not hold up the rest. What a task writes must be its own; at the end
// all of it can be seen by every thread, stores past the caches (cache.h) too. With `back` a share is gone through from
// its end: of what a pass has read before in order, the caches have the last.
template <class Run>
void run_tasks(int64_t count, const Run& run, bool back = false) {
  int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (threads <= 1) {
    for (int64_t task = 0; task < count; ++task) run(back ? count - 1 - task : task);
    return level::settle();
  }
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t begin, end;
  };
  std::vector<Share> shares(threads);
  for (int64_t i = 0; i < threads; ++i) {
    shares[i].begin = count * i / threads;
    shares[i].end = count * (i + 1) / threads;
    shares[i].next.store(shares[i].begin, std::memory_order_relaxed);
  }
  torch::stable::parallel_for(0, threads, 1, [&](int64_t mine, int64_t) {
    for (int64_t i = 0; i < threads; ++i) {
      Share& share = shares[(mine + i) % threads];
      if (share.next.load(std::memory_order_relaxed) >= share.end) continue;  // a look costs less than a taking
      for (int64_t task; (task = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;)
        run(back ? share.begin + share.end - 1 - task : task);
    }
    level::settle();
  });
}

// At least so many values, at a multiple of 64 bytes, of whatever contents; a thread's next call takes them back.
template <class T>
T* scratch(int64_t values) {
  struct Memory {
    void* start = nullptr;
    size_t bytes = 0;
    ~Memory() { std::free(start); }
  };
  static thread_local Memory memory;
  size_t bytes = (size_t(values) * sizeof(T) + 4095) / 4096 * 4096;
  if (memory.bytes < bytes) {
    std::free(memory.start);
    memory.bytes = 0;
    memory.start = std::aligned_alloc(64, bytes);
    if (memory.start == nullptr) throw std::bad_alloc();
    memory.bytes = bytes;
  }
  return static_cast<T*>(memory.start);
}

}  // namespace lightsr
