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
      : length(length), each(round_up(ceil_div(length, ceil_div(length, most)), unit)), parts(ceil_div(length, each)) {}
  int64_t begin(int64_t part) const { return std::min(each * part, length); }
  int64_t longest() const { return std::min(each, length); }
};

// Rows of planes are cut where cache lines begin.
template <class T>
Cut columns_of(int64_t w, bool planes) {
  constexpr int64_t line = per_line<T>, most = 112;
  return {w, most / line * line, planes ? line : 1};
}

}  // namespace lightsr::feed_forward
