// One block's work on its sums and its outputs, for banded.cuh.
#pragma once

#include "../common/activation.cuh"
#include "banded_multiply.cuh"
#include "banded_picture.cuh"

namespace lightsr {

struct Banded {
  BandPicture picture;
  const uint16_t *x, *weight, *bias, *gate, *residual;
  uint16_t* out;
  BandMove move_x, move_gate, move_residual, move_out;
  int kh, kw;
  bool flip;
  Activation activation;
  float negative_slope;
  int warp_rows, warp_columns;  // warps that share a plane's tile
  int tiles_y, tiles_x;         // of a lattice
  int pitch, plane_bytes;
  int first_group;  // of image `first_image`, for block row 0
  int64_t first_image;
};

constexpr int banded_threads = 256;  // at most

// Where a lane's pairs of sums lie in the tile, once the inputs there are no longer needed.
struct BandLane {
  unsigned char* start;
  int pitch;

  __device__ __forceinline__ BandLane(unsigned char* warp_start, int pitch) : pitch(pitch) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    start = warp_start + lane / 4 * pitch + lane % 4 * 4;
  }
  // Of sums.at[half][tile][2 * low] and the next one.
  __device__ __forceinline__ uint32_t* pair(int half, int tile, int low) const {
    return reinterpret_cast<uint32_t*>(start + (16 * half + 8 * low) * pitch + 16 * tile);
  }
};

template <class Each>
__device__ __forceinline__ void for_each_pair(BandSums& sums, const BandLane& lane, Each each) {
#pragma unroll
  for (int half = 0; half < band_row_tiles; ++half) {
#pragma unroll
    for (int tile = 0; tile < band_column_tiles; ++tile) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        each(sums.at[half][tile][2 * low], sums.at[half][tile][2 * low + 1], lane.pair(half, tile, low));
      }
    }
  }
}

__device__ __forceinline__ bool any_band_nan(const BandSums& sums) {
  bool found = false;
#pragma unroll
  for (int tile = 0; tile < band_row_tiles * band_column_tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float sum = sums.at[tile / band_column_tiles][tile % band_column_tiles][i];
      found = found || sum != sum;
    }
  }
  return found;
}

__device__ __forceinline__ void add_band_bias(BandSums& sums, float bias) {
#pragma unroll
  for (int tile = 0; tile < band_row_tiles * band_column_tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums.at[tile / band_column_tiles][tile % band_column_tiles][i] += bias;
  }
}

// A quarter of the sums at a time, the others moving up: an activation is long, and its code stands here 16 times.
__device__ __forceinline__ void activate_sums(BandSums& sums, Activation activation, float negative_slope) {
  constexpr int tiles = band_row_tiles * band_column_tiles;
  const auto at = [&](int tile) -> float (&)[4] { return sums.at[tile / band_column_tiles][tile % band_column_tiles]; };
#pragma unroll 1
  for (int quarter = 0; quarter < 4; ++quarter) {
#pragma unroll
    for (int tile = 0; tile < tiles / 4; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float done = activate(at(tile)[i], activation, negative_slope);
#pragma unroll
        for (int step = 0; step < 3; ++step) at(tile + step * tiles / 4)[i] = at(tile + (step + 1) * tiles / 4)[i];
        at(tile + 3 * tiles / 4)[i] = done;
      }
    }
  }
}

// The outputs of some planes one by one, tap by tap: what the tensor cores' zeros would spread a NaN or an infinity to
// is summed without them.
template <class T>
__device__ __forceinline__ void plain_band_outputs(const Banded& call, BandTile tile, BandPlanes planes, int64_t origin,
                                                   int channel) {
  for (BandWalk walk(tile.tile_columns, tile.tile_planes); walk.row < tile.tile_rows; walk.next()) {
    const int plane = tile.first_plane + walk.plane;
    const int row = tile.first_row + walk.row, column = tile.first_column + walk.column;
    if (!planes.real(plane, row, column)) continue;
    const int64_t own = channel + (call.picture.channels_last ? plane : 0);
    const uint16_t* weight = call.weight + own * call.kh * call.kw;
    float sum = 0.0f;
    for (int i = 0; i < call.kh; ++i) {
      for (int j = 0; j < call.kw; ++j) {
        const int left = band_left(call.kw) - call.kw / 2;
        const int tap = i * call.kw + j;
        const auto* x = reinterpret_cast<const uint16_t*>(tile.at(plane, walk.row + i, walk.column + left + j));
        sum += to_sum(T{*x}) * to_sum(T{weight[call.flip ? call.kh * call.kw - 1 - tap : tap]});
      }
    }
    if (call.bias != nullptr) sum += to_sum(T{call.bias[own]});
    sum = activate(sum, call.activation, call.negative_slope);
    const int64_t at = origin + planes.offset(plane, row, column);
    if (call.gate != nullptr) sum *= to_sum(T{call.gate[at]});
    if (call.residual != nullptr) sum += to_sum(T{call.residual[at]});
    call.out[at] = from_sum<T>(sum).bits;
  }
}

}  // namespace lightsr
