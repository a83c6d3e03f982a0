// depthwise_conv of float16 and bfloat16 on tensor cores, forward and, with the taps reversed, the gradient of x.
// out[y, x] = sum of w[i, j] x[y + i - kh/2, x + j - kw/2] as D[16 rows x 8 columns] += A[16 x K] B[K x 8] for each
// filter row i: A the input's rows, from a tile in shared memory, B the banded (Toeplitz) matrix of the filter row, the
// same everywhere in a channel. The picture's rows stand in M, so that a batch of one fills the chip. K = 8 + kw - 1
// rounded up to 8: K / kw products for each one needed (2.3 at 7, 2.2 at 11, 1.8 at 13, 1.4 at 17, 1.3 at 31).
//
// Tile plan: a warp has 32 rows x 64 columns of one plane, 64 sums a lane. A block is one tile of up to 64 x 128
// outputs (4 warps), or 32 x 64 outputs of 2 to 8 column phases of the dilation, or of 8 or 16 channels of a
// channels_last tensor; the tile's input, its halo and the filters come into shared memory once, the outputs leave
// through the same place, so that every layout is read and written in runs. Dilation costs nothing inside: see
// banded_picture.cuh. A band's zeros would carry a NaN or an infinity further than the filter reaches: a block that
// meets one sums tap by tap instead.
//
// Floor at (1, 64, 360, 640): 59 MB, 13.7 us at 4.3 TB/s. Per filter row and 16 x 8 outputs a multiprocessor spends
// 0.8 K / 8 cycles on mma (62 % of the tensor cores' rate) and 2 (1 + (K / 8 - 1) / 8) on reading A; the longer of the
// two is 8 us at k = 7, 14 at 11, 16 at 13, 21 at 17, 33 at 21, 62 at 31. The band itself is one word a lane and block,
// read once for 16 tiles of outputs, so that nothing depends on how many filter rows there are. Registers: 128, for 16
// warps on a multiprocessor. Shared memory: 20 KB for 64 x 128 outputs at k = 7, 38 KB at 31; channels_last 98 KB (16
// channels, k = 7) to 147 KB (8 channels, k = 31).
#pragma once

#include "../common/launch.cuh"
#include "banded_load.cuh"
#include "banded_outputs.cuh"
#include "banded_store.cuh"

namespace lightsr {

// The block's place, found once and kept in shared memory, so that the sums have the registers.
struct BandBlock {
  BandPlanes planes;
  BandTile outputs;
  int64_t origin;
  int channel;  // of plane 0
};
struct BandPlace {
  int slot, row, column;  // where a warp's outputs begin
};
struct BandState {
  BandBlock block;
  BandPlace warps[banded_threads / warp_size];
};
constexpr int band_state_bytes = round_up(static_cast<int>(sizeof(BandState)), 128);

__device__ __forceinline__ BandBlock band_block(const Banded& call) {
  const unsigned phase_and_row = blockIdx.x / call.tiles_x;
  const int tile_x = static_cast<int>(blockIdx.x - phase_and_row * call.tiles_x);
  const int phase = static_cast<int>(phase_and_row / call.tiles_y);
  const int tile_y = static_cast<int>(phase_and_row - static_cast<unsigned>(phase) * call.tiles_y);
  const int groups = call.picture.channel_groups();
  const int group = call.first_group + static_cast<int>(blockIdx.y);
  const int channel_group = group % groups;
  BandBlock block;
  block.channel = channel_group * (call.picture.channels_last ? call.picture.block_planes : 1);
  block.planes = call.picture.planes(call.first_image + group / groups, channel_group, phase, block.origin);
  block.outputs.start = band_state_bytes;
  block.outputs.pitch = call.pitch;
  block.outputs.plane_bytes = call.plane_bytes;
  block.outputs.first_plane = 0;
  block.outputs.tile_planes = static_cast<int>(blockDim.x) / (call.warp_rows * call.warp_columns * warp_size);
  block.outputs.first_row = tile_y * call.warp_rows * band_rows;
  block.outputs.first_column = tile_x * call.warp_columns * band_columns;
  block.outputs.tile_rows = call.warp_rows * band_rows;
  block.outputs.tile_columns = call.warp_columns * band_columns;
  return block;
}

__device__ __forceinline__ BandPlace band_place(const Banded& call) {
  const unsigned warp = threadIdx.x / warp_size, wide = call.warp_columns, tile_warps = call.warp_rows * wide;
  const unsigned inside = warp % tile_warps;
  return {static_cast<int>(warp / tile_warps), static_cast<int>(inside / wide) * band_rows,
          static_cast<int>(inside % wide) * band_columns};
}

// The tile of x with its halo and the filters.
template <int blocks>
__device__ __forceinline__ void band_inputs(const Banded& call, const BandBlock& block, unsigned char* filters) {
  BandTile inputs = block.outputs;
  inputs.tile_planes = call.picture.block_planes;
  inputs.first_row -= call.kh / 2;
  inputs.first_column -= band_left(call.kw);
  inputs.tile_rows += call.kh - 1;
  inputs.tile_columns += 8 * (blocks - 1);
  load_band_tile<8>(inputs, call.x + block.origin, block.planes, call.move_x);
  const int own_filters = call.picture.channels_last ? block.planes.planes : 1;
  for (int i = 0; i < own_filters; ++i) {
    const uint16_t* weight = call.weight + static_cast<int64_t>(block.channel + i) * call.kh * call.kw;
    write_band_filter<blocks>(filters + i * band_filter_bytes(blocks, call.kh), weight, call.kh, call.kw, call.flip);
  }
}

template <class T, int blocks>
__global__ __launch_bounds__(banded_threads, 2) void banded_kernel(const Banded call) {
  auto& state = *shared_memory<BandState>();
  BandBlock& block = state.block;
  const int tiles_bytes = call.picture.block_planes * call.plane_bytes;
  unsigned char* filters = shared_memory<unsigned char>() + band_state_bytes + tiles_bytes;
  {
    const BandBlock found = band_block(call);
    if (!found.planes.real(0, found.outputs.first_row, found.outputs.first_column)) return;
    band_inputs<blocks>(call, found, filters);
    if (threadIdx.x == 0) block = found;
    if (threadIdx.x % warp_size == 0) state.warps[threadIdx.x / warp_size] = band_place(call);
  }
  copy_wait<0>();
  sync_threads();

  for (int first_plane = 0; first_plane < block.planes.planes; first_plane += block.outputs.tile_planes) {
    const BandPlace warp = state.warps[threadIdx.x / warp_size];
    const int plane = first_plane + warp.slot;
    const int own = call.picture.channels_last ? plane : 0;
    unsigned char* start = block.outputs.at(plane, warp.row, warp.column);
    BandSums sums = {};
    const int columns = static_cast<int>(block.planes.width(plane, block.outputs.first_row + warp.row)) -
                        block.outputs.first_column - warp.column;  // that are real
    const unsigned char* filter = filters + own * band_filter_bytes(blocks, call.kh);
    if (columns > band_columns / 2) {
      multiply_band<T, blocks, band_column_tiles>(sums, start, call.pitch, filter, call.kh);
    } else if (columns > 0) {
      multiply_band<T, blocks, band_column_tiles / 2>(sums, start, call.pitch, filter, call.kh);
    }
    if (sync_threads_or(any_band_nan(sums))) {
      plain_band_outputs<T>(call, block.outputs.of(first_plane), block.planes, block.origin, block.channel);
      continue;
    }
    const BandLane lane(start, call.pitch);
    if (call.bias != nullptr && plane < block.planes.planes) {
      add_band_bias(sums, to_sum(T{call.bias[block.channel + own]}));
    }
    if (call.activation != Activation::none) activate_sums(sums, call.activation, call.negative_slope);
    if (call.gate != nullptr) {
      load_band_tile<2>(block.outputs.of(first_plane), call.gate + block.origin, block.planes, call.move_gate);
      copy_wait<0>();
      sync_threads();
      for_each_pair(sums, lane, [&](float& left, float& right, uint32_t* at) {
        left *= to_sum(T{static_cast<uint16_t>(*at)});
        right *= to_sum(T{static_cast<uint16_t>(*at >> 16)});
      });
      sync_threads();
    }
    if (call.residual != nullptr) {
      load_band_tile<2>(block.outputs.of(first_plane), call.residual + block.origin, block.planes, call.move_residual);
      copy_wait<0>();
      sync_threads();
      for_each_pair(sums, lane, [&](float& left, float& right, uint32_t* at) {
        left += to_sum(T{static_cast<uint16_t>(*at)});
        right += to_sum(T{static_cast<uint16_t>(*at >> 16)});
      });
    }
    // A lane writes only where it alone has read.
    for_each_pair(sums, lane, [&](float& left, float& right, uint32_t* at) { *at = pack<T>(left, right); });
    sync_threads();
    store_band_tile(block.outputs.of(first_plane), call.out + block.origin, block.planes, call.move_out);
  }
}

constexpr int64_t banded_shared_most = 163 * 1024;  // of a block, on sm_80
constexpr int64_t banded_shared_half = 112 * 1024;  // two blocks on a multiprocessor of sm_90
constexpr int64_t banded_blocks = 264;              // fill an H200 twice

struct BandedShape {
  int planes, warp_rows, warp_columns;

  int slots() const { return smaller(planes, banded_threads / warp_size); }
  int threads() const { return slots() * warp_rows * warp_columns * warp_size; }
  int pitch(int blocks) const { return 16 * ((warp_columns * band_columns / 8 + blocks - 1) | 1); }
  int plane_bytes(int blocks, int kh) const { return (warp_rows * band_rows + kh - 1) * pitch(blocks); }
  int64_t shared_bytes(int blocks, int kh, bool channels_last) const {
    return band_state_bytes + planes * static_cast<int64_t>(plane_bytes(blocks, kh)) +
           (channels_last ? planes : 1) * band_filter_bytes(blocks, kh);
  }
};

inline BandedShape banded_shape(const DepthwiseConv& call, int blocks) {
  const int64_t rows = ceil_div(call.h, smaller(call.dh, call.h)), columns = ceil_div(call.w, smaller(call.dw, call.w));
  const int64_t tall = ceil_div(rows, int64_t{band_rows});
  const int fastest = static_cast<int>(smaller(call.channels_last ? call.c : smaller(call.dw, call.w), int64_t{8}));
  BandedShape shape{fastest, 1, 1};
  if (!call.channels_last && fastest == 1) {
    shape.warp_columns = columns > band_columns ? 2 : 1;
    shape.warp_rows = static_cast<int>(smaller(tall, int64_t{4 / shape.warp_columns}));
  } else if (fastest <= 4 && tall > 1) {
    shape.warp_rows = 2;
  }
  const BandedShape wide{16, 1, 1};
  if (call.channels_last && call.c >= 16 && wide.shared_bytes(blocks, call.kh, true) <= banded_shared_half)
    shape = wide;
  const auto count = [&] {
    return call.n *
           (call.channels_last ? ceil_div(call.c, int64_t{shape.planes}) * smaller(call.dw, call.w)
                               : call.c * ceil_div(smaller(call.dw, call.w), int64_t{shape.planes})) *
           smaller(call.dh, call.h) * ceil_div(rows, int64_t{shape.warp_rows * band_rows}) *
           ceil_div(columns, int64_t{shape.warp_columns * band_columns});
  };
  while (shape.warp_rows > 1 && count() < banded_blocks) shape.warp_rows /= 2;
  if (count() < banded_blocks) shape.warp_columns = 1;
  return shape;
}

template <class T, int blocks>
int banded_launch(const DepthwiseConv& given, void* stream, int64_t grid_rows) {
  const DepthwiseConv call = band_layout(given);
  const BandedShape shape = banded_shape(call, blocks);
  const auto numbers = [](const void* tensor) { return static_cast<const uint16_t*>(tensor); };
  Banded banded;
  banded.picture = band_picture(call, shape.planes);
  banded.x = numbers(call.x);
  banded.weight = numbers(call.weight);
  banded.bias = numbers(call.bias);
  banded.gate = numbers(call.gate);
  banded.residual = numbers(call.residual);
  banded.out = static_cast<uint16_t*>(call.out);
  banded.move_x = band_move(banded.picture, call.x, band_left(call.kw));
  banded.move_gate = band_move(banded.picture, call.gate, 0);
  banded.move_residual = band_move(banded.picture, call.residual, 0);
  banded.move_out = band_move(banded.picture, call.out, 0);
  banded.kh = call.kh;
  banded.kw = call.kw;
  banded.flip = call.flip;
  banded.activation = call.activation;
  banded.negative_slope = static_cast<float>(call.negative_slope);
  banded.warp_rows = shape.warp_rows;
  banded.warp_columns = shape.warp_columns;
  const BandPicture& picture = banded.picture;
  banded.tiles_y = ceil_div(ceil_div(picture.height, picture.dh), shape.warp_rows * band_rows);
  banded.tiles_x = ceil_div(ceil_div(picture.width, picture.dw), shape.warp_columns * band_columns);
  banded.pitch = shape.pitch(blocks);
  banded.plane_bytes = shape.plane_bytes(blocks, call.kh);
  const auto shared = static_cast<size_t>(shape.shared_bytes(blocks, call.kh, call.channels_last));
  const int64_t groups = call.n * picture.channel_groups();
  const auto tiles = static_cast<unsigned>(picture.phases() * banded.tiles_y * banded.tiles_x);
  for (int64_t first = 0; first < groups; first += grid_rows) {
    banded.first_image = first / picture.channel_groups();
    banded.first_group = static_cast<int>(first % picture.channel_groups());
    const dim3 grid(tiles, static_cast<unsigned>(smaller(grid_rows, groups - first)));
    const int status = LIGHTSR_LAUNCH((banded_kernel<T, blocks>), grid, shape.threads(), shared, stream, banded);
    if (status != 0) return status;
  }
  return 0;
}

template <class T>
int banded_by_width(const DepthwiseConv& call, void* stream, int64_t grid_rows) {
  switch (band_blocks(call.kw)) {
    case 2:
      return banded_launch<T, 2>(call, stream, grid_rows);
    case 3:
      return banded_launch<T, 3>(call, stream, grid_rows);
    case 4:
      return banded_launch<T, 4>(call, stream, grid_rows);
    default:
      return banded_launch<T, 5>(call, stream, grid_rows);
  }
}

// A 3 x 3 filter is as fast without tensor cores, a column cannot use them, and small lattices leave a warp's tile
// empty.
inline bool banded_takes(const DepthwiseConv& call) {
  const bool type = call.type == Type::float16 || call.type == Type::bfloat16;
  return type && call.kw >= 3 && call.kh * call.kw > 9 && fits_banded(call) && lattice_size(call) >= 256;
}

// `grid_rows` is how many channels of images one launch takes at most.
inline int banded_forward(const DepthwiseConv& call, void* stream, int64_t grid_rows = 65535) {
  return call.type == Type::float16 ? banded_by_width<Half>(call, stream, grid_rows)
                                    : banded_by_width<BFloat16>(call, stream, grid_rows);
}

}  // namespace lightsr
