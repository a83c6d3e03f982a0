// The rows of a picture with zeros around it, in the numbers that are computed with.
#pragma once

#include <algorithm>

#include "../common/pixels.h"
#include "arguments.h"

namespace lightsr::dense {

// Pixels x to x + count of row y of a picture, each `numbers` numbers that lie side by side: those of a channel of
// [N, C, H, W], with one number each, and those of [N, H, W, C]. What is outside is zeros.
template <class E, class S>
void padded_row(const S* picture, const DenseConv& call, int64_t numbers, int64_t y, int64_t x, int64_t count, E* to) {
  int64_t left = count, right = 0;  // zeros on either side
  if (y >= 0 && y < call.h) {
    left = std::clamp<int64_t>(-x, 0, count);
    right = std::clamp<int64_t>(x + count - call.w, 0, count - left);
  }
  const int64_t inside = count - left - right;
  std::fill_n(to, left * numbers, E(0));
  if (inside > 0) copy_numbers(picture + (y * call.w + x + left) * numbers, inside * numbers, to + left * numbers);
  std::fill_n(to + (left + inside) * numbers, right * numbers, E(0));
}

}  // namespace lightsr::dense
