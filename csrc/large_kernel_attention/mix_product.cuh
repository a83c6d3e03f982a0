// The matrix products of mix.cuh on operands in shared memory: D[row][column] = sum over k of A[row][k] B[k][column].
//
// 16-bit types: a warp makes 16 rows x 32 columns on tensor cores, float32 sums; an A fragment meets four of B. float32
// and float64: a thread makes 8 x 4 on CUDA cores; for 16 bytes of k, 8 loads of A, mostly shared by the lanes, and as
// many of B make 32 FMA for each number. All pitches are odd numbers of 16 bytes, so that neighbouring rows are in
// different banks. `depth`, rows and columns are whole units of these shapes; what is there beyond the real numbers of
// k is zero in both operands.
#pragma once

#include "../common/tensor_cores.cuh"

namespace lightsr::attention {

template <class T>
struct Operands {
  const T* a;
  int a_pitch;  // A[row][k] at a + row * a_pitch + k
  const T* b;
  int b_pitch;  // B[k][column] at b + k * b_pitch + column, or transposed at b + column * b_pitch + k
  int depth;
};

// On tensor cores; the lanes of a warp have the same item.
template <class T>
struct MixProduct {
  static constexpr int rows = 16, columns = 32, step = 16, lanes = 32;
  static constexpr bool takes_transposed = true;  // B, with transposed true

  float sums[4][4] = {};

  template <bool transposed>
  __device__ __forceinline__ void add(const Operands<T>& from, int row, int column) {
    const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8, line = lane % 8;
    const T* a = from.a + (row + lane % 16) * from.a_pitch + lane / 16 * 8;
    const T* b = transposed ? from.b + (column + matrix / 2 * 8 + line) * from.b_pitch + matrix % 2 * 8
                            : from.b + (matrix % 2 * 8 + line) * from.b_pitch + column + matrix / 2 * 8;
    const int next = transposed ? 16 * from.b_pitch : 16;  // 16 columns on
#pragma unroll 2
    for (int k = 0; k < from.depth; k += 16) {
      uint32_t left[4], right[2][4];
      load_matrix_x4(left, a + k);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (transposed) {
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
  template <class Put>
  __device__ __forceinline__ void finish(int row, int column, const Put& put) const {
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

// On CUDA cores.
template <class S>
struct MixProductOfSums {
  static constexpr int by = 16 / sizeof(S);
  static constexpr int rows = 8, columns = 4, step = by, lanes = 1;
  static constexpr bool takes_transposed = false;

  S sums[rows][columns] = {};

  template <bool transposed>
  __device__ __forceinline__ void add(const Operands<S>& from, int row, int column) {
    const S *a = from.a + row * from.a_pitch, *b = from.b + column;
#pragma unroll 1
    for (int k = 0; k < from.depth; k += by) {
      Vector<S, by> left[rows], right[by][columns / by];
#pragma unroll
      for (int i = 0; i < by; ++i) {
#pragma unroll
        for (int j = 0; j < columns / by; ++j) right[i][j] = load_vector<by>(b + (k + i) * from.b_pitch + j * by);
      }
#pragma unroll
      for (int r = 0; r < rows; ++r) left[r] = load_vector<by>(a + r * from.a_pitch + k);
#pragma unroll
      for (int i = 0; i < by; ++i) {
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
          for (int c = 0; c < columns; ++c) sums[r][c] += left[r][i] * right[i][c / by][c % by];
        }
      }
    }
  }

  template <class Put>
  __device__ __forceinline__ void finish(int row, int column, const Put& put) const {
#pragma unroll
    for (int r = 0; r < rows; ++r) put(row + r, column, sums[r]);
  }
};

template <>
struct MixProduct<float> : MixProductOfSums<float> {};
template <>
struct MixProduct<double> : MixProductOfSums<double> {};

}  // namespace lightsr::attention
