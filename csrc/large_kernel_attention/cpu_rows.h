// From pictures of any type and layout to padded rows of floats or doubles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <new>

#include "../common/shuffle.h"

namespace lightsr::attention {

// Numbers without a value yet, aligned to a cache line.
template <class S>
class Memory {
 public:
  explicit Memory(int64_t count)
      : data_(static_cast<S*>(::operator new(static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(S), line))) {}
  ~Memory() { ::operator delete(data_, line); }
  Memory(const Memory&) = delete;
  S* data() const { return data_; }

 private:
  static constexpr std::align_val_t line{64};
  S* data_;
};

template <class S, class T>
void widen(S* to, const T* from, int64_t count) {
  constexpr int size = Vec<S>::size;
  int64_t done = 0;
  for (; done + size <= count; done += size) Vec<S>::load(from + done).store(to + done);
  if (done < count) {
    const int part = static_cast<int>(count - done);
    Vec<S>::load(from + done, part).store(to + done, part);
  }
}

// A row of numbers with `margin` zeros before and behind; null for a row outside the picture, all zeros.
template <class S, class T>
void pad_row(S* to, const T* from, int64_t count, int64_t margin) {
  std::fill_n(to, margin, S(0));
  if (from) {
    widen(to + margin, from, count);
  } else {
    std::fill_n(to + margin, count, S(0));
  }
  std::fill_n(to + margin + count, margin, S(0));
}

// A row of pixels of `channels` numbers each becomes a padded row of each channel's plane; null as for pad_row.
template <class S, class T>
void pad_pixels(S* to, int64_t plane, const T* from, int64_t channels, int64_t count, int64_t margin) {
  constexpr int size = Vec<S>::size;
  if (!from) {
    for (int64_t c = 0; c < channels; ++c) std::fill_n(to + c * plane, count + 2 * margin, S(0));
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    std::fill_n(to + c * plane, margin, S(0));
    std::fill_n(to + c * plane + margin + count, margin, S(0));
  }
  for (int64_t c = 0; c < channels; c += size) {
    const int many = static_cast<int>(std::min<int64_t>(size, channels - c));
    for (int64_t pixel = 0; pixel < count; pixel += size) {
      const int pixels = static_cast<int>(std::min<int64_t>(size, count - pixel));
      Vec<S> values[size];
      for (int i = 0; i < pixels; ++i) {
        const T* at = from + (pixel + i) * channels + c;
        values[i] = many == size ? Vec<S>::load(at) : Vec<S>::load(at, many);
      }
      for (int i = pixels; i < size; ++i) values[i] = Vec<S>::fill(0);
      transpose(values);
      for (int i = 0; i < many; ++i) {
        S* row = to + (c + i) * plane + margin + pixel;
        pixels == size ? values[i].store(row) : values[i].store(row, pixels);
      }
    }
  }
}

}  // namespace lightsr::attention
