// The tensor core part of weight_banded.cuh: one warp's share of a tile.
//
// For a row h of grad, D[j][r] += A[j][x] B[x][r] over columns x: A[j][x] = grad[h][x - j + kw/2], a Toeplitz matrix,
// B[x][r] = input[r][x] for rows r near h, and the tap is i = r - h + kh/2. Rows h, h + 1 ... meet nearly the same rows
// of input, so `rows` of them share B's blocks of 8 rows, each with sums of its own: D_h[j][r]. A's 16 rows are any two
// blocks of 8 values of j, of one row of grad or of two: nothing is wasted where j needs 8 or 24 values.
// A's 8 x 8 blocks depend only on the column minus j, so 32 columns take j_blocks + 3 of them, each one word a lane; a
// second copy of grad, moved by one number, keeps every lane's pair aligned. A warp goes down its rows in steps of 8,
// so that B's blocks move up by one and one new block is read a step.
#pragma once

#include "../common/tensor_cores.cuh"

namespace lightsr {

constexpr int weight_banded_chunk = 32;  // columns a warp works on at once

// For filters of up to 8 j_blocks columns and 8 row_blocks - rows + 1 rows. `steps` of 8 rows are one warp's turn, so
// that there are turns for all warps.
template <int j_blocks_, int rows_, int row_blocks_, int steps_>
struct WeightBandedForm {
  static constexpr int j_blocks = j_blocks_, rows = rows_, row_blocks = row_blocks_, steps = steps_;
  static constexpr int pairs = rows * j_blocks / 2;  // of blocks of A
};

using WeightBanded7 = WeightBandedForm<1, 8, 2, 1>;  // by the largest square filter
using WeightBanded13 = WeightBandedForm<2, 4, 2, 2>;
using WeightBanded15 = WeightBandedForm<2, 2, 2, 4>;
using WeightBanded23 = WeightBandedForm<3, 2, 3, 4>;
using WeightBanded31 = WeightBandedForm<4, 1, 4, 4>;

// Block 2 p (+ 1) of A is block s % j_blocks of row s / j_blocks, s = 2 p (+ 1).
template <class Form>
struct WeightBandedSums {
  float at[Form::pairs][Form::row_blocks][4];
};

// Columns of grad to the left of the tile's first column of input: for A's blocks, and a multiple of 8.
__host__ __device__ constexpr int weight_banded_left(int j_blocks, int kw) {
  return round_up(larger(8 * j_blocks - 1 - kw / 2, kw / 2), 8);
}
__host__ __device__ constexpr int weight_banded_right(int kw) {
  return round_up(kw / 2 + 1, 8);
}

// `input` and `grad` are the plane's tiles, moved to the turn's first row and column; grad's rows hold two copies.
template <class T, class Form>
__device__ __forceinline__ void multiply_weight(WeightBandedSums<Form>& sums, const unsigned char* input,
                                                int input_pitch, const unsigned char* grad, int copy_bytes, int left,
                                                int steps) {
  constexpr int j_blocks = Form::j_blocks, row_blocks = Form::row_blocks;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int first = left + 2 * (lane % 4) - lane / 4 - 8 * (j_blocks - 1);
  const unsigned char* words = grad + first % 2 * copy_bytes + first / 2 * 4;
  const unsigned char* rows = input + lane % 8 * input_pitch + lane / 8 * 16;
  uint32_t block[row_blocks][4];
#pragma unroll
  for (int n = 0; n < row_blocks - 1; ++n) {
    load_matrix_x4(block[n], rows);
    rows += 8 * input_pitch;
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    uint32_t band[Form::rows][j_blocks + 3];
#pragma unroll
    for (int row = 0; row < Form::rows; ++row) {
#pragma unroll
      for (int b = 0; b < j_blocks + 3; ++b) {
        band[row][b] = *reinterpret_cast<const uint32_t*>(words + row * 2 * copy_bytes + 16 * b);
      }
    }
    load_matrix_x4(block[row_blocks - 1], rows);
#pragma unroll
    for (int pair = 0; pair < Form::pairs; ++pair) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto& upper = band[2 * pair / j_blocks];
        const auto& lower = band[(2 * pair + 1) / j_blocks];
        const int up = j_blocks - 1 + 2 * half - 2 * pair % j_blocks;
        const int low = j_blocks - 1 + 2 * half - (2 * pair + 1) % j_blocks;
        const uint32_t a[4] = {upper[up], lower[low], upper[up + 1], lower[low + 1]};
#pragma unroll
        for (int n = 0; n < row_blocks; ++n) {
          const uint32_t b[2] = {block[n][2 * half], block[n][2 * half + 1]};
          mma_m16n8k16<T>(sums.at[pair][n], a, b);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < row_blocks - 1; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) block[n][i] = block[n + 1][i];
    }
    words += 16 * copy_bytes;
    rows += 8 * input_pitch;
  }
}

// The warp's sums of all taps [kh, kw], in shared memory: one row of grad after another.
template <class Form>
__device__ __forceinline__ void write_weight(float* taps, const WeightBandedSums<Form>& sums, int kh, int kw) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
#pragma unroll
  for (int row = 0; row < Form::rows; ++row) {
#pragma unroll
    for (int s = row * Form::j_blocks; s < (row + 1) * Form::j_blocks; ++s) {
      const int j = 8 * (s % Form::j_blocks) + lane / 4;
#pragma unroll
      for (int n = 0; n < Form::row_blocks; ++n) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int i = 8 * n + 2 * (lane % 4) + k - row;
          if (i < 0 || i >= kh || j >= kw) continue;
          const float sum = sums.at[s / 2][n][s % 2 * 2 + k];
          taps[i * kw + j] = row == 0 ? sum : taps[i * kw + j] + sum;
        }
      }
    }
    sync_warp();
  }
}

}  // namespace lightsr
