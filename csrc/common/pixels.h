// Blocks of pixels for ops that are products of a small matrix with every pixel, in both layouts with one code.
//
// What lies in memory is a rectangle: rows are channels and columns pixels where pictures lie as [N, C, H, W] (planes),
// rows are pixels and columns channels where they lie as [N, H, W, C]. A buffer of a block has the same rows and
// columns. Its numbers are float or double; those of products in bfloat16 are bfloat16 themselves where the machine
// multiplies pairs of them.
#pragma once

#include <cstdlib>
#include <new>

#include "by_type.h"
#include "cache.h"
#include "product.h"
#include "round.h"
#include "slice.h"

namespace lightsr {

template <class T>
struct Numbers {
  static constexpr bool pairs = level::pairs && std::is_same_v<T, BFloat16>;
  using Factor = std::conditional_t<pairs, BFloat16, Wide<T>>;  // of products, in a buffer
  using Element = std::conditional_t<pairs, Pair, Wide<T>>;     // what a product's vectors are made of
};

// Rows of numbers `step` apart.
template <class T>
struct Rows {
  T* data;
  int64_t step;
  T* at(int64_t row, int64_t column) const { return data + row * step + column; }
  explicit operator bool() const { return data != nullptr; }
};

// Rows that are read from memory, once: asked for some time before. A row of pixels is short, and the machine's own
// prefetching would begin anew at each, so it is the next row where rows are channels.
template <class T>
struct Stream {
  Rows<const T> rows;
  int64_t ahead;
  Stream(const Rows<const T>& rows, bool planes) : rows(rows), ahead(planes ? rows.step : 4096 / int64_t(sizeof(T))) {}
  explicit operator bool() const { return rows.data != nullptr; }
  template <class S, class... Part>
  Vec<S> load(int64_t row, int64_t column, Part... part) const {
    const T* from = rows.at(row, column);
    __builtin_prefetch(from + ahead);
    return Vec<S>::load(from, part...);
  }
};

// The pixels that a task has before it.
struct Block {
  bool planes;
  int64_t picture, pixel, count;

  int64_t rows(int64_t channels) const { return planes ? channels : count; }
  int64_t columns(int64_t channels) const { return planes ? count : channels; }

  template <class T>
  Rows<const T> of(const Slice& slice) const {
    const int64_t at = slice.picture * picture + pixel * (planes ? 1 : slice.step);
    return {slice.data ? static_cast<const T*>(slice.data) + at : nullptr, slice.step};
  }
  // Of a dense picture [N, channels, pixels].
  template <class T>
  Rows<T> of(void* data, int64_t channels, int64_t pixels) const {
    const int64_t step = planes ? pixels : channels;
    const int64_t at = picture * channels * pixels + pixel * (planes ? 1 : channels);
    return {data ? static_cast<T*>(data) + at : nullptr, step};
  }
  template <class T>
  Rows<const T> of(const void* data, int64_t channels, int64_t pixels) const {
    return of<const T>(const_cast<void*>(data), channels, pixels);
  }
  template <class T>
  Rows<T> from_channel(Rows<T> rows, int64_t channel) const {
    return {rows.data ? rows.data + channel * (planes ? rows.step : 1) : nullptr, rows.step};
  }

  // Asks for a picture's numbers of the block, where they lie in long enough rows.
  template <class T>
  void ask_for(const Slice& slice, int64_t channels, Ahead& ahead) const {
    const int64_t wide = columns(channels) * int64_t(sizeof(T)), step = slice.step * int64_t(sizeof(T));
    const void* from = of<T>(slice).data;
    if (wide == step) {
      ahead.add(from, 0, wide * rows(channels), 1);
    } else if (wide >= 512) {
      ahead.add(from, step, wide, rows(channels));
    }
  }

  // Calls each(row, column) for each vector of `channels` channels, and each(row, column, part) at the end of a row.
  template <class S, class Each>
  void every(int64_t channels, const Each& given) const {
    const Each each = given;  // a copy that nothing else points to, so what it holds stays in registers
    constexpr int size = Vec<S>::size;
    const int64_t many = rows(channels), wide = columns(channels), whole = wide / size * size;
    for (int64_t row = 0; row < many; ++row) {
      for (int64_t column = 0; column < whole; column += size) each(row, column);
      if (whole < wide) each(row, whole, static_cast<int>(wide - whole));
    }
  }
};

// Buffers of a task, one behind the other in its thread's scratch memory.
class Arena {
 public:
  explicit Arena(char* from) : at_(from) {}
  template <class T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(at_);
    at_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return taken;
  }
  int64_t used(const char* from) const { return at_ - from; }

 private:
  char* at_;
};

// A buffer for `channels` channels of up to `pixels` pixels, with what products read beyond its edges.
template <class T>
Rows<T> buffer(Arena& arena, bool planes, int64_t channels, int64_t pixels) {
  const int64_t line = per_line<T>;
  const int64_t rows = round_up((planes ? channels : pixels) + 1, product_rows);
  const int64_t step = planes ? round_up_odd(pixels, line) : round_up(channels + 1, line);
  return {arena.take<T>(rows * step), step};
}

// Memory that begins at a cache line.
template <class T>
class Aligned {
 public:
  explicit Aligned(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(64, round_up(count * int64_t(sizeof(T)), 64)))) {
    if (!data_ && count > 0) throw std::bad_alloc();
  }
  ~Aligned() { std::free(data_); }
  Aligned(const Aligned&) = delete;
  T* data() const { return data_; }

 private:
  T* data_;
};

template <class E, class S>
void copy_numbers(const S* from, int64_t count, E* to) {
  constexpr int64_t size = Vec<E>::size;
  int64_t i = 0;
  for (; i + size <= count; i += size) Vec<E>::load(from + i).store(to + i);
  if (i < count) Vec<E>::load(from + i, static_cast<int>(count - i)).store(to + i, static_cast<int>(count - i));
}

// Numbers of parameters as they are computed with, and zeros behind them.
template <class E>
struct Widened : Aligned<E> {
  template <class S>
  Widened(const S* from, int64_t count, int64_t more) : Aligned<E>(count + more) {
    E* to = this->data();
    const int64_t there = from ? count : 0;
    copy_numbers(from, there, to);
    std::fill_n(to + there, count + more - there, E(0));
  }
};

template <class S, class T>
S wide_number(T number) {
  if constexpr (std::is_same_v<S, T>) {
    return number;
  } else {
    S lanes[Vec<S>::size];
    Vec<S>::load(&number, 1).store(lanes);
    return lanes[0];
  }
}

// A number of each channel, as the vectors of a rectangle need it.
template <class S>
class PerChannel {
 public:
  template <class T>
  PerChannel(bool planes, const T* from, int64_t channels)
      : planes_(planes), there_(from != nullptr), numbers_(there_ ? channels + Vec<S>::size : 0) {
    for (int64_t c = 0; there_ && c < channels; ++c) numbers_.data()[c] = wide_number<S>(from[c]);
  }

  // The numbers for the vectors of a row: one in a register where channels are rows, else those of the columns.
  template <bool planes>
  struct InRow {
    std::conditional_t<planes, Vec<S>, const S*> numbers;
    Vec<S> at([[maybe_unused]] int64_t column) const {
      if constexpr (planes) {
        return numbers;
      } else {
        return Vec<S>::load(numbers + column);
      }
    }
  };

  // The numbers from one channel on, or none.
  struct View {
    const S* data;
    bool planes;
    explicit operator bool() const { return data != nullptr; }
    Vec<S> at(int64_t row, int64_t column) const {
      return planes ? Vec<S>::fill(data[row]) : Vec<S>::load(data + column);
    }
    // What `at` gives for a row, in less time where the layout is known.
    template <bool planes>
    InRow<planes> in_row([[maybe_unused]] int64_t row) const {
      if constexpr (planes) {
        return {Vec<S>::fill(data[row]).kept()};
      } else {
        return {data};
      }
    }
  };
  View from_channel(int64_t first) const { return {there_ ? numbers_.data() + first : nullptr, planes_}; }

 private:
  bool planes_, there_;
  Aligned<S> numbers_;
};

}  // namespace lightsr
