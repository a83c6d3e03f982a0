// Pixels of a picture of either layout into a buffer that has the channels of a pixel one behind the other.
#pragma once

#include <algorithm>

#include "../common/pixel_product.h"

namespace lightsr::dense_weight {

// Channels of a picture in memory.
template <class S>
struct Picture {
  const S* data;  // the first of the channels at the first pixel
  int64_t channels, h, w;
  int64_t row, column, step;  // of memory: from row to row, column to column and channel to channel
};

template <class T, class S>
Picture<S> picture_of(const void* data, bool last, int64_t n, int64_t all, int64_t h, int64_t w, int64_t first,
                      int64_t channels) {
  const S* from = static_cast<const S*>(data) + n * all * h * w;
  if (last) return {from + first, channels, h, w, w * all, all, 1};
  return {from + first * h * w, channels, h, w, w, 1, h * w};
}

// A vector's channels of a vector's pixels, or fewer of both.
template <bool whole, class T, class S>
void turn(const S* from, int64_t step, int64_t channels, int64_t pixels, T* to, int64_t pitch) {
  constexpr int size = Vec<T>::size;
  Vec<T> lines[size];
#pragma GCC unroll 16
  for (int r = 0; r < size; ++r) {
    if constexpr (whole) {
      lines[r] = Vec<T>::load(from + r * step);
    } else {
      lines[r] = r < channels ? Vec<T>::load(from + r * step, int(pixels)) : Vec<T>::fill(0);
    }
  }
  transpose(lines);
#pragma GCC unroll 16
  for (int r = 0; r < size; ++r) {
    if constexpr (whole) {
      lines[r].store(to + r * pitch);
    } else if (r < pixels) {
      lines[r].store(to + r * pitch, int(channels));
    }
  }
}

// Pixels left to left + pixels of row y; zeros where the picture does not reach.
template <class T, class S>
void read_line(const Picture<S>& from, int64_t y, int64_t left, int64_t pixels, T* to, int64_t pitch) {
  constexpr int size = Vec<T>::size;
  const bool inside = 0 <= y && y < from.h;
  const int64_t begin = inside ? std::clamp<int64_t>(-left, 0, pixels) : pixels;
  const int64_t end = inside ? std::clamp<int64_t>(from.w - left, begin, pixels) : pixels;
  for (int64_t p = 0; p < pixels; ++p) {
    if (p == begin) p = end;
    if (p < pixels) std::fill_n(to + p * pitch, from.channels, T(0));
  }
  if (begin == end) return;
  const S* data = from.data + y * from.row + (left + begin) * from.column;
  to += begin * pitch;
  const int64_t many = end - begin;
  if (from.step != 1) {
    for (int64_t c = 0; c < from.channels; c += size) {
      for (int64_t p = 0; p < many; p += size) {
        const S* at = data + c * from.step + p;
        const int64_t deep = std::min<int64_t>(size, from.channels - c), wide = std::min<int64_t>(size, many - p);
        const auto function = deep == size && wide == size ? turn<true, T, S> : turn<false, T, S>;
        function(at, from.step, deep, wide, to + p * pitch + c, pitch);
      }
    }
    return;
  }
  const int64_t whole = from.channels / size * size;
  const int tail = int(from.channels - whole);
  for (int64_t p = 0; p < many; ++p, data += from.column, to += pitch) {
    for (int64_t c = 0; c < whole; c += size) Vec<T>::load(data + c).store(to + c);
    if (tail) Vec<T>::load(data + whole, tail).store(to + whole, tail);
  }
}

// Adds the sum of pixels to one number a channel.
template <class T>
void add_line(const T* from, int64_t pixels, int64_t pitch, int64_t channels, T* to) {
  constexpr int size = Vec<T>::size;
  for (int64_t c = 0; c < channels; c += size) {
    const int many = int(std::min<int64_t>(size, channels - c));
    Vec<T> total = Vec<T>::load(to + c, many);
    for (int64_t p = 0; p < pixels; ++p) {
      const T* at = from + p * pitch + c;
      total = total + (many == size ? Vec<T>::load(at) : Vec<T>::load(at, many));
    }
    total.store(to + c, many);
  }
}

}  // namespace lightsr::dense_weight
