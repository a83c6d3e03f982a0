// Rows of pixels turned over into rows of channels.
#pragma once

#include "cpu_tokens.h"

namespace lightsr {

// to[k][t] = element k of row t: a channel, or a pair of channels where products are of pairs. `rows` rows of `step`
// numbers, whole vectors of both; reads up to a vector beyond the last row.
template <class T>
void turn_rows(const typename Numbers<T>::Factor* from, int64_t rows, int64_t step, typename Numbers<T>::Element* to) {
  using S = Wide<T>;
  constexpr int size = Vec<S>::size;
  const int64_t wide = step / (Numbers<T>::pairs ? 2 : 1);  // elements
  for (int64_t token = 0; token < rows; token += size) {
    for (int64_t c = 0; c < wide; c += size) {
      // A row may end in half a vector of pairs; then the next one's beginning comes along and is left out.
      Vec<S> square[size];
      const S* at = reinterpret_cast<const S*>(from) + token * wide + c;  // pairs are as wide as floats
      for (int i = 0; i < size; ++i) square[i] = Vec<S>::load(at + i * wide);
      transpose(square);
      const int there = static_cast<int>(std::min<int64_t>(size, wide - c));
      for (int i = 0; i < there; ++i) std::memcpy(to + (c + i) * rows + token, &square[i].v, sizeof square[i].v);
    }
  }
}

}  // namespace lightsr
