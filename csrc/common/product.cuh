// Matrix products of operands in shared memory: D[row][column] = sum over k of A[row][k] B[k][column].
//
// 16-bit types: a warp makes 16 rows x 32 columns on tensor cores, float32 sums; an A fragment meets four of B. float32
// and float64: a thread makes 8 x 4 on CUDA cores; for 16 bytes of k, 8 loads of A, mostly shared by the lanes, and 4
// of B make 32 FMA for each number. Either operand may lie turned, k from row to row. All pitches are odd numbers of 16
// bytes (odd_row), so that neighbouring rows are in different banks. `depth`, rows and columns are whole units of these
// shapes; what is there beyond the real numbers of k is zero in both operands.
#pragma once

#include "tensor_cores.cuh"

namespace lightsr {

template <class T>
struct Operands {
  const T* a;
  int a_pitch;  // A[row][k] at a + row * a_pitch + k, or turned at a + k * a_pitch + row
  const T* b;
  int b_pitch;  // B[k][column] at b + k * b_pitch + column, or turned at b + column * b_pitch + k
  int depth;
  int rows, columns;  // of D
};

// On tensor cores; the lanes of a warp have the same item.
template <class T>
struct Product {
  static constexpr int rows = 16, columns = 32, step = 16, lanes = 32;

  float sums[4][4] = {};

  template <bool a_turned, bool b_turned>
  __device__ __forceinline__ void add(const Operands<T>& from, int row, int column) {
    const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8, line = lane % 8;
    const T* a = a_turned ? from.a + (matrix / 2 * 8 + line) * from.a_pitch + row + matrix % 2 * 8
                          : from.a + (row + lane % 16) * from.a_pitch + lane / 16 * 8;
    const T* b = b_turned ? from.b + (column + matrix / 2 * 8 + line) * from.b_pitch + matrix % 2 * 8
                          : from.b + (matrix % 2 * 8 + line) * from.b_pitch + column + matrix / 2 * 8;
    const int next = b_turned ? 16 * from.b_pitch : 16;  // 16 columns on
#pragma unroll 2
    for (int k = 0; k < from.depth; k += 16) {
      uint32_t left[4], right[2][4];
      if constexpr (a_turned) {
        load_matrix_x4_trans(left, a + k * from.a_pitch);
      } else {
        load_matrix_x4(left, a + k);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (b_turned) {
          load_matrix_x4(right[i], b + k + i * next);
        } else {
          load_matrix_x4_trans(right[i], b + k * from.b_pitch + i * next);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t pair[2] = {right[i / 2][i % 2 * 2], right[i / 2][i % 2 * 2 + 1]};
        mma_m16n8k16<T>(sums[i], left, pair);
      }
    }
  }

  // Gives each run of neighbouring sums to `put` as (row, column, sums).
  template <bool b_turned, class Put>
  __device__ __forceinline__ void finish(int row, int column, int /* columns */, const Put& put) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float two[2] = {sums[i][2 * half], sums[i][2 * half + 1]};
        put(row + lane / 4 + 8 * half, column + 8 * i + lane % 4 * 2, two);
      }
    }
  }
};

// On CUDA cores. Where B lies turned a thread's columns stand a quarter of all columns apart, so that neighbouring
// lanes read neighbouring rows of it.
template <class S>
struct ProductOfSums {
  static constexpr int by = 16 / sizeof(S);
  static constexpr int rows = 8, columns = 4, step = by, lanes = 1;

  S sums[rows][columns] = {};

  template <bool a_turned, bool b_turned>
  __device__ __forceinline__ void add(const Operands<S>& from, int row, int column) {
    const S* a = from.a + (a_turned ? row : row * from.a_pitch);
    const S* b = from.b + (b_turned ? column / columns * from.b_pitch : column);
    const int next = from.columns / columns * from.b_pitch;
#pragma unroll 1
    for (int k = 0; k < from.depth; k += by) {
      S left[rows][by], right[by][columns];
#pragma unroll
      for (int i = 0; i < (b_turned ? columns : by); ++i) {
        if constexpr (b_turned) {
          const auto some = load_vector<by>(b + i * next + k);
#pragma unroll
          for (int j = 0; j < by; ++j) right[j][i] = some[j];
        } else {
          load_run(right[i], b + (k + i) * from.b_pitch);
        }
      }
#pragma unroll
      for (int i = 0; i < (a_turned ? by : rows); ++i) {
        if constexpr (a_turned) {
          S some[rows];
          load_run(some, a + (k + i) * from.a_pitch);
#pragma unroll
          for (int j = 0; j < rows; ++j) left[j][i] = some[j];
        } else {
          load_run(left[i], a + i * from.a_pitch + k);
        }
      }
#pragma unroll
      for (int i = 0; i < by; ++i) {
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
          for (int c = 0; c < columns; ++c) sums[r][c] += left[r][i] * right[i][c];
        }
      }
    }
  }

  template <bool b_turned, class Put>
  __device__ __forceinline__ void finish(int row, int column, int all_columns, const Put& put) const {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if constexpr (b_turned) {
#pragma unroll
        for (int c = 0; c < columns; ++c) {
          const S one[1] = {sums[r][c]};
          put(row + r, column / columns + c * (all_columns / columns), one);
        }
      } else {
        put(row + r, column, sums[r]);
      }
    }
  }
};

template <>
struct Product<float> : ProductOfSums<float> {};
template <>
struct Product<double> : ProductOfSums<double> {};

// One number a thread, of operands anywhere, of any size and pitch: for what the others have no room for.
template <class T>
struct PlainProduct {
  static constexpr int rows = 1, columns = 1, step = 1, lanes = 1;

  Sum<T> sum = Sum<T>(0);

  template <bool a_turned, bool b_turned>
  __device__ __forceinline__ void add(const Operands<T>& from, int row, int column) {
    const T* a = from.a + (a_turned ? row : int64_t(row) * from.a_pitch);
    const T* b = from.b + (b_turned ? int64_t(column) * from.b_pitch : column);
    const int64_t a_step = a_turned ? from.a_pitch : 1, b_step = b_turned ? 1 : from.b_pitch;
#pragma unroll 4
    for (int k = 0; k < from.depth; ++k) sum += to_sum(a[k * a_step]) * to_sum(b[k * b_step]);
  }

  template <bool b_turned, class Put>
  __device__ __forceinline__ void finish(int row, int column, int /* columns */, const Put& put) const {
    const Sum<T> one[1] = {sum};
    put(row, column, one);
  }
};

// All of D; `put` gets the sums as (row, column, run of sums), each place from the same thread in every call of the
// same rows and columns.
template <class Units, bool a_turned, bool b_turned, class T, class Put>
__device__ __forceinline__ void multiply(const Operands<T>& from, const Put& put) {
  const int across = from.columns / Units::columns, items = from.rows / Units::rows * across;
  const int step = static_cast<int>(blockDim.x) / Units::lanes;
#pragma unroll 1
  for (int item = static_cast<int>(threadIdx.x) / Units::lanes; item < items; item += step) {
    Units product;
    const int row = item / across * Units::rows, column = item % across * Units::columns;
    product.template add<a_turned, b_turned>(from, row, column);
    product.template finish<b_turned>(row, column, from.columns, put);
  }
}

}  // namespace lightsr
