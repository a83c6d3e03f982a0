// Rows of a picture to and from the vectors that the kernels work on, in either layout.
//
// A vector holds neighbouring columns of one channel where the picture is [N, C, H, W] and neighbouring channels of one
// pixel where it is [N, H, W, C]. A row in a buffer is a row of such vectors, one behind the other.
#pragma once

#include <algorithm>

#include "../common/cache.h"
#include "../common/shuffle.h"
#include "../common/simd_math.h"

namespace lightsr {

// Where a picture's numbers are, for one picture and one channel (or one vector of channels).
struct Plane {
  int64_t start;   // of row 0, column 0
  int64_t row;     // from row to row
  int64_t column;  // from column to column
  int lanes;       // channels in the vector, of those that exist; 0 where lanes are columns
};

template <class T, class S>
T widened(S value) {
  if constexpr (std::is_same_v<T, S>)
    return value;
  else
    return sum(Vec<T>::load(&value, 1));
}

// Columns first to first + count of a row of width columns, zero where there are none.
template <class T, class S>
void read_columns(T* to, const S* row, int64_t first, int64_t count, int64_t width) {
  int64_t begin = std::clamp<int64_t>(-first, 0, count), end = std::clamp<int64_t>(width - first, begin, count);
  std::fill(to, to + begin, T(0));
  int64_t i = begin;
  for (; i + Vec<T>::size <= end; i += Vec<T>::size) Vec<T>::load(row + first + i).store(to + i);
  if (i < end) Vec<T>::load(row + first + i, int(end - i)).store(to + i, int(end - i));
  std::fill(to + end, to + count, T(0));
}

// The same of pixels of `lanes` channels, which lie `apart` from each other.
template <class T, class S>
void read_pixels(T* to, const S* row, int64_t first, int64_t count, int64_t width, int64_t apart, int lanes) {
  constexpr int size = Vec<T>::size;
  int64_t begin = std::clamp<int64_t>(-first, 0, count), end = std::clamp<int64_t>(width - first, begin, count);
  std::fill(to, to + begin * size, T(0));
  if (lanes == size)
    for (int64_t i = begin; i < end; ++i) Vec<T>::load(row + (first + i) * apart).store(to + i * size);
  else
    for (int64_t i = begin; i < end; ++i) Vec<T>::load(row + (first + i) * apart, lanes).store(to + i * size);
  std::fill(to + end * size, to + count * size, T(0));
}

template <class T, class S>
void read_row(T* to, const S* picture, const Plane& plane, int64_t y, int64_t first, int64_t count, int64_t width,
              int64_t = 0) {
  const S* row = picture + plane.start + y * plane.row;
  if (plane.lanes == 0)
    read_columns(to, row, first, count, width);
  else
    read_pixels(to, row, first, count, width, plane.column, plane.lanes);
}

#ifdef __AVX512BF16__
// The same as pairs of what stands in a column and what stands a dilation to its right.
inline void read_row(Pair* to, const BFloat16* picture, const Plane& plane, int64_t y, int64_t first, int64_t count,
                     int64_t width, int64_t dilation) {
  constexpr int size = Vec<Pair>::size;
  const BFloat16* row = picture + plane.start + y * plane.row;
  auto store = [&](int64_t i, __m256i left, __m256i right) { _mm512_storeu_si512(to + i, level::pair(left, right)); };
  if (plane.lanes == 0) {
    for (int64_t i = 0; i < count; i += size)
      store(i, level::window(row, first + i, width), level::window(row, first + i + dilation, width));
    return;
  }
  auto pixel = [&](int64_t column) {
    if (column < 0 || column >= width) return _mm256_setzero_si256();
    return level::load16(row + column * plane.column, plane.lanes);
  };
  int64_t begin = std::clamp<int64_t>(-first, 0, count), end = std::clamp(width - dilation - first, begin, count);
  if (plane.lanes < size) end = begin;
  for (int64_t i = 0; i < begin; ++i) store(i * size, pixel(first + i), pixel(first + i + dilation));
  for (int64_t i = begin; i < end; ++i) {
    const BFloat16* at = row + (first + i) * plane.column;
    store(i * size, level::load16(at), level::load16(at + dilation * plane.column));
  }
  for (int64_t i = end; i < count; ++i) store(i * size, pixel(first + i), pixel(first + i + dilation));
}
#endif

// What happens to the sums on their way out.
template <class T, class S>
struct Finish {
  Activation activation;
  Vec<T> negative_slope;
  const S* gate;      // or null
  const S* residual;  // or null
  S* out;
  bool past;  // the caches

  bool none() const { return activation == Activation::none && gate == nullptr && residual == nullptr; }

  // One row of vectors, `lanes` of each and `last` of the last one, to places `apart` from each other.
  void operator()(const T* sums, int64_t at, int vectors, int64_t apart, int lanes, int last) const {
    int whole = lanes < Vec<T>::size ? 0 : last < Vec<T>::size ? vectors - 1 : vectors;
    if (none())
      for (int v = 0; v < whole; ++v) put(Vec<T>::load(sums + v * Vec<T>::size), out + at + v * apart, past);
    else
      for (int v = 0; v < whole; ++v) {
        int64_t place = at + v * apart;
        Vec<T> value = activate(Vec<T>::load(sums + v * Vec<T>::size), activation, negative_slope);
        if (gate) value = value * Vec<T>::load(gate + place);
        if (residual) value = value + Vec<T>::load(residual + place);
        put(value, out + place, past);
      }
    for (int v = whole; v < vectors; ++v) {
      int64_t place = at + v * apart;
      int count = v + 1 < vectors ? lanes : last;
      Vec<T> value = activate(Vec<T>::load(sums + v * Vec<T>::size), activation, negative_slope);
      if (gate) value = value * Vec<T>::load(gate + place, count);
      if (residual) value = value + Vec<T>::load(residual + place, count);
      value.store(out + place, count);
    }
  }
};

}  // namespace lightsr
