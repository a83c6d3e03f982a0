// Pictures cut into blocks of pixels, a task each, or a task for several where each has sums of its own.
//
// How they are cut depends on sizes alone, and the sums of tasks are added in their order, so the number of threads
// changes no result.
#pragma once

#include "parallel.h"
#include "pixels.h"

namespace lightsr {

struct Blocks {
  bool planes;
  int64_t n, pixels, block, each;  // each: blocks in a picture
  static constexpr int64_t unit = 48, most_pixels = 16 * unit;

  // Blocks whose buffers of so many numbers a pixel stay in the L2 cache.
  Blocks(bool planes, int64_t n, int64_t pixels, int64_t numbers) : planes(planes), n(n), pixels(pixels) {
    constexpr int64_t cache = 1 << 16, fewest = 2 * unit;
    const int64_t fit = std::clamp(cache / std::max<int64_t>(numbers, 1) / unit * unit, fewest, most_pixels);
    const int64_t count = (pixels + fit - 1) / fit;
    block = std::min(round_up((pixels + count - 1) / count, unit), fit);
    each = (pixels + block - 1) / block;
  }
  int64_t count() const { return n * each; }
  Block at(int64_t index) const {
    const int64_t pixel = index % each * block;
    return {planes, index / each, pixel, std::min(block, pixels - pixel)};
  }
  // The block that the thread with this one is likely to have next, if any.
  template <class Use>
  void after(int64_t index, const Use& use) const {
    if (index + 1 < count()) use(at(index + 1));
  }
  // The block after one of them, if any.
  template <class Use>
  void following(const Block& block, const Use& use) const {
    const int64_t next = block.picture * each + block.pixel / this->block + 1;
    if (next < count()) use(at(next));
  }
};

// Runs run(block, sums) for all blocks, with sums zero at first: `sums` numbers for each picture, or for all together.
// Then `to` [n or 1, sums] has them.
template <class Run>
void run_with_sums(const Blocks& blocks, bool each_picture, int64_t sums, double* to, const Run& run) {
  constexpr int64_t most_tasks = 64, most_numbers = 1 << 19;
  const int64_t targets = each_picture ? blocks.n : 1, in_target = blocks.count() / targets;
  const int64_t fit = std::clamp<int64_t>(most_numbers / std::max<int64_t>(sums, 1), 1, most_tasks);
  const int64_t tasks = std::min(in_target, ceil_div(fit, targets));    // of each target
  const Aligned<double> parts(tasks > 1 ? targets * tasks * sums : 0);  // each task clears its own
  run_tasks(targets * tasks, [&](int64_t task) {
    double* mine = tasks > 1 ? parts.data() + task * sums : to + task * sums;
    std::fill_n(mine, sums, 0.0);
    const int64_t first = task / tasks * in_target, part = task % tasks;
    for (int64_t i = in_target * part / tasks; i < in_target * (part + 1) / tasks; ++i) run(blocks.at(first + i), mine);
  });
  if (tasks == 1) return;
  constexpr int64_t slice = 4096;
  const int64_t slices = (sums + slice - 1) / slice;
  run_tasks(targets * slices, [&](int64_t task) {
    const int64_t target = task / slices, begin = task % slices * slice, end = std::min(begin + slice, sums);
    double* total = to + target * sums;
    std::fill(total + begin, total + end, 0.0);
    for (int64_t part = 0; part < tasks; ++part) {
      const double* from = parts.data() + (target * tasks + part) * sums;
      for (int64_t i = begin; i < end; ++i) total[i] += from[i];
    }
  });
}

}  // namespace lightsr
