// A block's tile of a picture in shared memory: rows of neighbouring numbers on their way in, out and through
// registers.
#pragma once

#include "copy_async.cuh"
#include "numbers.cuh"

namespace lightsr {

// The pitch of a tile's rows: an odd number of 16 bytes, so that neighbouring rows are in different banks.
template <class T>
__host__ __device__ constexpr int odd_row(int columns) {
  constexpr int by = 16 / static_cast<int>(sizeof(T));
  return (ceil_div(columns, by) | 1) * by;
}

inline bool at_16(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// How many bytes of a row may move at once, by all addresses and steps there are.
class Alignment {
 public:
  explicit Alignment(size_t size) : size_(size) {}

  Alignment& pointer(const void* at) {
    bits_ |= reinterpret_cast<uintptr_t>(at);
    return *this;
  }
  Alignment& step(int64_t numbers) {
    bits_ |= static_cast<uint64_t>(numbers) * size_;
    return *this;
  }
  // 16, 8, or those of one number.
  int bytes() const {
    if (bits_ % 16 == 0) return 16;
    return bits_ % 8 == 0 ? 8 : static_cast<int>(size_);
  }

 private:
  size_t size_;
  uint64_t bits_ = 0;
};

template <int count>
struct Many {
  static constexpr int value = count;
};

template <int many, class Run>
__device__ __forceinline__ void each_run_of(int rows, int columns, const Run& run) {
  const int across = columns / many;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * across; i += static_cast<int>(blockDim.x)) {
    run(i / across, i % across * many, Many<many>());
  }
}

// Deals out a tile's rows in runs of `bytes`: calls `run` with (row, column, Many<numbers>), neighbouring threads with
// neighbouring runs.
template <class T, class Run>
__device__ __forceinline__ void each_run(int rows, int columns, int bytes, const Run& run) {
  if (bytes == 16) return each_run_of<16 / sizeof(T)>(rows, columns, run);
  if constexpr (sizeof(T) < 8) {
    if (bytes == 8) return each_run_of<8 / sizeof(T)>(rows, columns, run);
  }
  each_run_of<1>(rows, columns, run);
}

// Neighbouring numbers, of which the first lies at a multiple of their size or of 16 bytes.
template <class T, int many>
__device__ __forceinline__ void get_run(const T* from, Sum<T> (&to)[many]) {
  constexpr int by = smaller(many, static_cast<int>(16 / sizeof(T)));
#pragma unroll
  for (int i = 0; i < many; i += by) {
    const auto some = load_vector<by>(from + i);
#pragma unroll
    for (int j = 0; j < by; ++j) to[i + j] = to_sum(some[j]);
  }
}

template <class T, int many>
__device__ __forceinline__ void put_run(T* to, const Sum<T> (&from)[many]) {
  constexpr int by = smaller(many, static_cast<int>(16 / sizeof(T)));
#pragma unroll
  for (int i = 0; i < many; i += by) {
    Vector<T, by> some;
#pragma unroll
    for (int j = 0; j < by; ++j) some[j] = from_sum<T>(from[i + j]);
    store_vector(to + i, some);
  }
}

// Starts the copy of rows x columns numbers, rows `step` apart, into a tile; the bytes are there after a wait and a
// barrier.
template <class T>
__device__ __forceinline__ void load_tile(T* tile, int pitch, const T* from, int64_t step, int rows, int columns,
                                          int bytes) {
  each_run<T>(rows, columns, bytes, [&](int row, int column, auto count) {
    constexpr int many = decltype(count)::value;
    T* to = tile + row * pitch + column;
    const T* source = from + row * step + column;
    if constexpr (many * sizeof(T) == 16) {
      copy_async_16(to, source);
    } else if constexpr (many * sizeof(T) == 8) {
      copy_async_8(to, source);
    } else {
      *to = *source;
    }
  });
}

template <class T>
__device__ __forceinline__ void store_tile(T* out, int64_t step, const T* tile, int pitch, int rows, int columns,
                                           int bytes) {
  each_run<T>(rows, columns, bytes, [&](int row, int column, auto count) {
    constexpr int many = decltype(count)::value;
    store_vector(out + row * step + column, load_vector<many>(tile + row * pitch + column));
  });
}

template <class T>
__device__ __forceinline__ void clear_tile(T* tile, int pitch, int first_row, int rows, int first_column, int columns) {
  const int across = columns - first_column;
  for (int i = static_cast<int>(threadIdx.x); i < (rows - first_row) * across; i += static_cast<int>(blockDim.x)) {
    tile[(first_row + i / across) * pitch + first_column + i % across] = from_sum<T>(Sum<T>(0));
  }
}

// Zeros around the first `real_rows` x `real_columns` numbers, up to rows x columns.
template <class T>
__device__ __forceinline__ void clear_around(T* tile, int pitch, int real_rows, int real_columns, int rows,
                                             int columns) {
  if (real_rows < rows) clear_tile(tile, pitch, real_rows, rows, 0, real_columns);
  if (real_columns < columns) clear_tile(tile, pitch, 0, rows, real_columns, columns);
}

// Sums of `length` numbers each: `number` gives them as (line, i), `put` gets (line, sum). Eight lanes share a line and
// add up what they have in a fixed order. Every thread of the block comes here; their number is a multiple of 32.
template <class S, class Number, class Put>
__device__ __forceinline__ void sum_lines(int lines, int length, const Number& number, const Put& put) {
  const int lane = static_cast<int>(threadIdx.x) % 8, at_once = static_cast<int>(blockDim.x) / 8;
#pragma unroll 1
  for (int first = 0; first < lines; first += at_once) {
    const int line = first + static_cast<int>(threadIdx.x) / 8;
    S sum = S(0);
    if (line < lines) {
#pragma unroll 4
      for (int i = lane; i < length; i += 8) sum += number(line, i);
    }
#pragma unroll
    for (int mask = 1; mask < 8; mask *= 2) sum += shuffle_xor(sum, mask);
    if (lane == 0 && line < lines) put(line, sum);
  }
}

}  // namespace lightsr
