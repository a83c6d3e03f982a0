// The tensor core part of banded.cuh: one warp's 32 x 64 outputs of one plane.
//
// D[16 rows x 8 columns] += A[16 x 8 blocks] B[8 blocks x 8] for each filter row: A the tile's rows, moved down by the
// filter row, B the band. B[u][j] = filter[u - j - shift], the same for all tiles of the channel. `blocks` is how many
// 8 x 8 blocks the band has: 8 + kw - 1 columns of input for 8 columns of output, rounded up to a tile's left edge.
//
// Neighbouring tiles of 8 columns share all but one of their blocks of A, so a filter row's blocks are read once for
// all 8 tiles. mma takes its 16 columns of A from four registers in a row, that is blocks 2 m and 2 m + 1: a tile that
// begins at an odd block starts (and, with an even number of blocks, ends) with an m16n8k8.
#pragma once

#include "../common/tensor_cores.cuh"

namespace lightsr {

constexpr int band_rows = 32, band_columns = 64;  // of a warp
constexpr int band_row_tiles = band_rows / 16, band_column_tiles = band_columns / 8;

struct BandSums {
  float at[band_row_tiles][band_column_tiles][4];
};

// The padded filter in shared memory: kh rows of two copies of 8 blocks + 8 numbers, the second copy moved by one
// number, so that every lane finds its pair of neighbours in one aligned word.
__host__ __device__ constexpr int band_copy_bytes(int blocks) {
  return 16 * blocks + 16;
}
__host__ __device__ constexpr int band_filter_bytes(int blocks, int kh) {
  return 2 * kh * band_copy_bytes(blocks);
}

// Columns of input to the left of a tile's first output: a multiple of 4, so that copies of 8 bytes stay aligned.
__host__ __device__ constexpr int band_left(int kw) {
  return kw / 2 > 0 ? (kw / 2 + 3) / 4 * 4 : 4;
}
__host__ __device__ constexpr int band_blocks(int kw) {
  return 1 + band_left(kw) / 4;
}

// By all threads of the block.
template <int blocks>
__device__ __forceinline__ void write_band_filter(unsigned char* to, const uint16_t* weight, int kh, int kw,
                                                  bool flip) {
  constexpr int numbers = 8 * blocks + 8;
  const int shift = 7 + band_left(kw) - kw / 2;
  for (int index = static_cast<int>(threadIdx.x); index < 2 * kh * numbers; index += static_cast<int>(blockDim.x)) {
    const int line = index / numbers, row = line / 2, tap = index - line * numbers + line % 2 - shift;
    uint16_t value = 0;
    if (tap >= 0 && tap < kw) value = weight[flip ? (kh - 1 - row) * kw + kw - 1 - tap : row * kw + tap];
    reinterpret_cast<uint16_t*>(to)[index] = value;
  }
}

template <class T, int blocks, int tiles>
__device__ __forceinline__ void multiply_row(float (&sums)[band_column_tiles][4], const unsigned char* rows,
                                             const uint32_t (&band)[blocks]) {
  constexpr int pairs = (tiles + blocks) / 2;  // of the tiles + blocks - 1 blocks of input, the last one perhaps half
  uint32_t a[pairs][4];
#pragma unroll
  for (int m = 0; m < pairs; ++m) {
    if (2 * m + 1 < tiles + blocks - 1) {
      load_matrix_x4(a[m], rows + 32 * m);
    } else {
      uint32_t half[2];
      load_matrix_x2(half, rows + 32 * m);
      a[m][0] = half[0];
      a[m][1] = half[1];
    }
  }
  // Block b of the band meets the tile's block b; all tiles take a step before the next one, for the sums' latency.
#pragma unroll
  for (int b = -1; b < blocks; b += 2) {
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile) {
      const int first = tile % 2 == 0 ? b + 1 : b;  // of the band; with the tile added it is even
      if (first >= blocks) continue;
      const int m = (tile + first) / 2;
      if (first < 0) {
        const uint32_t half[2] = {a[m][2], a[m][3]};
        mma_m16n8k8<T>(sums[tile], half, band[0]);
      } else if (first + 1 < blocks) {
        const uint32_t pair[2] = {band[first], band[first + 1 < blocks ? first + 1 : 0]};
        mma_m16n8k16<T>(sums[tile], a[m], pair);
      } else {
        const uint32_t half[2] = {a[m][0], a[m][1]};
        mma_m16n8k8<T>(sums[tile], half, band[first]);
      }
    }
  }
}

// `input` is the tile's number that lies at the warp's first row and at band_left columns before its first column.
template <class T, int blocks, int tiles>
__device__ __forceinline__ void multiply_band(BandSums& sums, const unsigned char* input, int pitch,
                                              const unsigned char* filter, int kh) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int first = 2 * (lane % 4) - lane / 4 + 7;  // of the lane's pair in the padded filter row
  const unsigned char* band_row = filter + first % 2 * band_copy_bytes(blocks) + first / 2 * 4;
  const unsigned char* rows = input + lane % 16 * pitch + lane / 16 * 16;
#pragma unroll 1
  for (int i = 0; i < kh; ++i) {
    uint32_t band[blocks];
#pragma unroll
    for (int b = 0; b < blocks; ++b) band[b] = *reinterpret_cast<const uint32_t*>(band_row + 16 * b);
#pragma unroll
    for (int half = 0; half < band_row_tiles; ++half) {
      multiply_row<T, blocks, tiles>(sums.at[half], rows + half * 16 * pitch, band);
    }
    band_row += 2 * band_copy_bytes(blocks);
    rows += pitch;
  }
}

}  // namespace lightsr
