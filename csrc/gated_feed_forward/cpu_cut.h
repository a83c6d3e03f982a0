// How pictures are cut into tiles.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/round.h"

namespace lightsr::feed_forward {

// An axis cut into parts of about the same length, `most` at most, which begin at multiples of `unit`; most is one too.
struct Cut {
  int64_t length, each, parts;
  Cut(int64_t length, int64_t most, int64_t unit = 1)
      : length(length),
        each(std::max(round_up(divided(length, divided(length, most)), unit), unit)),
        parts(divided(length, each)) {}
  int64_t begin(int64_t part) const { return std::min(each * part, length); }
  int64_t longest() const { return std::min(each, length); }

 private:
  static int64_t divided(int64_t a, int64_t b) { return b ? (a + b - 1) / b : 0; }
};

}  // namespace lightsr::feed_forward
