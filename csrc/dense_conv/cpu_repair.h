// Results of a run of tiles of cpu_winograd.h summed up directly, for those that are not finite there: infinities that
// are subtracted from each other are no number, though each product with them is infinite.
#pragma once

#include <cmath>
#include <vector>

#include "cpu_finish.h"
#include "cpu_input.h"

namespace lightsr::dense {

template <class E, class S, bool last>
class Repair {
 public:
  // Of the tiles of a run.
  Repair(const DenseConv& call, const Filters<E, S>& filters, const Run& run)
      : outs_(call.outs), wide_(2 * run.count), sums_(static_cast<size_t>(call.outs * 2 * wide_)) {
    const int64_t area = call.h * call.w, numbers = last ? call.c : 1, count = wide_ + 2;
    const S* picture = static_cast<const S*>(call.x) + run.n * call.c * area;
    std::vector<E> rows(static_cast<size_t>(4 * count * numbers)), plane(static_cast<size_t>(4 * count));
    for (int64_t in = 0; in < call.c; ++in) {
      for (int64_t i = 0; i < 4; ++i) {
        const S* from = picture + (last ? 0 : in * area);
        E* row = rows.data() + i * count * numbers;
        if (!last || in == 0) padded_row(from, call, numbers, 2 * run.y - 1 + i, 2 * run.x - 1, count, row);
        for (int64_t k = 0; k < count; ++k)
          plane[static_cast<size_t>(i * count + k)] = row[k * numbers + (last ? in : 0)];
      }
      for (int64_t out = 0; out < call.outs; ++out) {
        for (int64_t i = 0; i < 2; ++i) {
          for (int64_t tap = 0; tap < 9; ++tap)
            add(plane.data() + (i + tap / 3) * count + tap % 3, filters.at(out, in, tap), at(out, i));
        }
      }
    }
  }

  // Instead of results of one channel in row i of the tiles.
  void row(int64_t i, int64_t out, int64_t count, E* results) {
    const E* sums = at(out, i);
    for (int64_t k = 0; k < count; ++k) results[k] = std::isfinite(results[k]) ? results[k] : sums[k];
  }
  // Instead of results of all channels at a pixel in row i.
  void pixel(int64_t i, int64_t column, E* results) {
    for (int64_t out = 0; out < outs_; ++out)
      results[out] = std::isfinite(results[out]) ? results[out] : at(out, i)[column];
  }

 private:
  E* at(int64_t out, int64_t i) { return sums_.data() + (2 * out + i) * wide_; }
  void add(const E* pixels, E factor, E* sums) const {
    for (int64_t k = 0; k < wide_; ++k) sums[k] += factor * pixels[k];
  }

  int64_t outs_, wide_;
  std::vector<E> sums_;  // [C_out][2][columns]
};

}  // namespace lightsr::dense
