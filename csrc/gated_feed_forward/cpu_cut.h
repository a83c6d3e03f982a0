// How pictures are cut into tiles.
#pragma once

#include <cstdint>

namespace lightsr::feed_forward {

// An axis cut into parts of about the same length, `most` at most.
struct Cut {
  int64_t length, parts;
  Cut(int64_t length, int64_t most) : length(length), parts((length + most - 1) / most) {}
  int64_t begin(int64_t part) const { return length * part / parts; }
  int64_t longest() const { return (length + parts - 1) / parts; }
};

}  // namespace lightsr::feed_forward
