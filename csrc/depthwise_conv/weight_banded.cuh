// The gradient of depthwise_conv's filter, of float16 and bfloat16, on tensor cores.
//
// grad_weight[i, j] = sum over rows h and columns x of grad[h, x - j + kw/2] input[h + i - kh/2, x]: for each row h of
// grad a product of the values of j and the rows of input near h, over the columns x; see weight_banded_multiply.cuh.
// Only padding is wasted: 2.6 products for each one needed at 7 x 7, 2.1 at 11, 1.5 at 13, 2.0 at 17, 1.3 at 21, 1.1
// at 31.
//
// Tile plan: a block has one channel (its column phases, if the dilation has some) or 8 channels of a channels_last
// tensor, and a share of all (image, phase, tile) triples, one tile after another in shared memory: 32 rows x 128
// columns of grad, or 16 x 64 of each of several planes, and the input around them; where copies can run by themselves,
// the next tile comes while this one is multiplied. Warps keep all taps' sums in registers and meet once, at the end.
// The block's sums go to a float32 workspace [parts, C, taps + 1]; a second kernel adds the parts in their order: no
// atomics, the same bits every time. The tap behind the last one is the sum of grad, for the bias.
//
// Floor at (1, 64, 360, 640): 59 MB, 13.7 us at 4.3 TB/s. For each row and 32 columns of grad a multiprocessor spends
// 3.2, 6.4, 6.4, 14.4, 25.6 cycles on mma (62 % of the tensor cores' rate) up to k = 7, 13, 15, 23, 31 and 5, 6.5, 7.5,
// 9, 14 on reading shared memory, 3 on filling it and on grad's second copy: 16, 19, 21, 29, 51 us.
// Registers: at most 128, for two blocks of 256 threads. Shared memory: 59 KB at k = 7, 75 KB at 31 (both tiles);
// channels_last 69 KB and 103 KB.
#pragma once

#include "../common/launch.cuh"
#include "banded_load.cuh"
#include "banded_picture.cuh"
#include "weight_banded_multiply.cuh"
#include "weight_banded_sum.cuh"

namespace lightsr {

struct WeightBanded {
  BandPicture picture;
  const uint16_t *x, *grad;
  float* sums;  // [parts, C, taps + 1]
  BandMove move_x, move_grad;
  int kh, kw;
  bool bias;
  int plane_warps;              // warps that share a plane
  int tile_rows, tile_columns;  // of grad, without its halo
  int tiles_y, tiles_x;         // of a lattice
  int input_pitch, copy_bytes;  // of a row of input, of one of the two copies of a row of grad
  int input_bytes, grad_bytes;  // of a plane
  int buffers, buffer_bytes;    // 2: the next tile comes while this one is multiplied
  int64_t units;                // (image, phase, tile) triples
  int split;                    // into so many parts
};

constexpr int weight_banded_threads = 256;  // at most
constexpr int weight_banded_blocks = 2;     // on a multiprocessor
// One (image, phase, tile).
struct WeightBandedUnit {
  BandPlanes planes;
  BandTile input, grad;
  int64_t origin;
  int row, column;  // of the tile, without its halo
};

__device__ __forceinline__ WeightBandedUnit weight_banded_unit(const WeightBanded& call, int channel_group,
                                                               int64_t unit, int left, int start) {
  const int tiles = call.tiles_y * call.tiles_x;
  const int64_t image_and_phase = unit / tiles;
  const unsigned tile = static_cast<unsigned>(unit - image_and_phase * tiles), wide = call.tiles_x;
  const int64_t image = image_and_phase / call.picture.phases();
  const int phase = static_cast<int>(image_and_phase - image * call.picture.phases());
  WeightBandedUnit place;
  place.planes = call.picture.planes(image, channel_group, phase, place.origin);
  place.row = static_cast<int>(tile / wide) * call.tile_rows;
  place.column = static_cast<int>(tile % wide) * call.tile_columns;
  place.input.first_plane = place.grad.first_plane = 0;
  place.input.tile_planes = place.grad.tile_planes = call.picture.block_planes;
  place.input.start = start;
  place.input.pitch = call.input_pitch;
  place.input.plane_bytes = call.input_bytes;
  place.input.first_row = place.row - call.kh / 2;
  place.input.first_column = place.column;
  place.input.tile_rows = call.tile_rows + call.kh - 1;
  place.input.tile_columns = call.tile_columns;
  place.grad.start = start + call.picture.block_planes * call.input_bytes;
  place.grad.pitch = 2 * call.copy_bytes;
  place.grad.plane_bytes = call.grad_bytes;
  place.grad.first_row = place.row;
  place.grad.first_column = place.column - left;
  place.grad.tile_rows = call.tile_rows;
  place.grad.tile_columns = call.tile_columns + left + weight_banded_right(call.kw);
  return place;
}

__device__ __forceinline__ void weight_banded_load(const WeightBanded& call, int channel_group, int64_t unit, int left,
                                                   int start) {
  const WeightBandedUnit place = weight_banded_unit(call, channel_group, unit, left, start);
  load_band_tile<4>(place.input, call.x + place.origin, place.planes, call.move_x);
  load_band_tile<4>(place.grad, call.grad + place.origin, place.planes, call.move_grad);
}

// The second copy of every row of grad, one number to the left.
__device__ __forceinline__ void copy_moved_grad(unsigned char* grad, int rows, int copy_bytes) {
  const int pieces = copy_bytes / 16;
  for (BandWalk walk(pieces, 1); walk.row < rows; walk.next()) {
    auto* from = reinterpret_cast<const uint32_t*>(grad + walk.row * 2 * copy_bytes + walk.column * 16);
    const Vector<uint32_t, 4> words = load_vector<4>(from);
    const uint32_t next = walk.column + 1 < pieces ? from[4] : 0;
    Vector<uint32_t, 4> moved;
#pragma unroll
    for (int i = 0; i < 4; ++i) moved[i] = words[i] >> 16 | (i < 3 ? words[i < 3 ? i + 1 : 0] : next) << 16;
    store_vector(reinterpret_cast<uint32_t*>(grad + (walk.row * 2 + 1) * copy_bytes + walk.column * 16), moved);
  }
}

template <class T, class Form>
__global__ __launch_bounds__(weight_banded_threads,
                             weight_banded_blocks) void weight_banded_kernel(const WeightBanded call) {
  const int warp = static_cast<int>(threadIdx.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int plane = warp / call.plane_warps, plane_warp = warp - plane * call.plane_warps;
  const int channel_group = static_cast<int>(blockIdx.x / call.split);
  const int part = static_cast<int>(blockIdx.x) - channel_group * call.split;
  const int left = weight_banded_left(Form::j_blocks, call.kw);

  WeightBandedSums<Form> sums = {};
  float bias = 0.0f;
  const int64_t first = call.units * part / call.split, end = call.units * (part + 1) / call.split;
  // With two buffers the tiles come one turn of the loop ahead.
  for (int64_t unit = first - (call.buffers - 1); unit < end; ++unit) {
    const int64_t next = unit + call.buffers - 1;
    if (next < end)
      weight_banded_load(call, channel_group, next, left,
                         static_cast<int>((next - first) & (call.buffers - 1)) * call.buffer_bytes);
    if (unit < first) continue;
    if (next > unit && next < end) {
      copy_wait<2>();  // the groups of the next tile
    } else {
      copy_wait<0>();
    }
    const int buffer = static_cast<int>((unit - first) & (call.buffers - 1)) * call.buffer_bytes;
    sync_threads();
    const WeightBandedUnit place = weight_banded_unit(call, channel_group, unit, left, buffer);
    unsigned char* inputs = shared_memory<unsigned char>() + buffer;
    unsigned char* grads = inputs + call.picture.block_planes * call.input_bytes;
    const unsigned char* own_grad = grads + plane * call.grad_bytes;
    copy_moved_grad(grads, call.picture.block_planes * call.tile_rows, call.copy_bytes);
    sync_threads();
    const int rows = smaller(call.tile_rows, place.planes.rows - place.row), steps = ceil_div(rows, 8);
    const int columns =
        smaller(call.tile_columns, static_cast<int>(place.planes.width(plane, place.row)) - place.column);
    int turn = 0;
    for (int step = 0; step < steps; step += Form::steps) {
      for (int chunk = 0; chunk < columns; chunk += weight_banded_chunk) {
        for (int h = 8 * step; h < 8 * step + 8; h += Form::rows) {
          if ((turn++ & (call.plane_warps - 1)) != plane_warp) continue;
          const unsigned char* input = inputs + plane * call.input_bytes + h * call.input_pitch + 2 * chunk;
          multiply_weight<T>(sums, input, call.input_pitch, own_grad + 2 * h * call.copy_bytes + 2 * chunk,
                             call.copy_bytes, left + call.kw / 2, smaller(Form::steps, steps - step));
        }
      }
    }
    for (int h = plane_warp; call.bias && h < rows; h += call.plane_warps) {
      auto* numbers = reinterpret_cast<const T*>(own_grad + 2 * h * call.copy_bytes) + left;
      for (int column = lane; column < columns; column += warp_size) bias += to_sum(numbers[column]);
    }
    sync_threads();
  }

  // Now shared memory holds each warp's sums, taps first.
  auto* all = shared_memory<float>();
  const int taps = call.kh * call.kw;
  float* own = all + warp * (taps + 1);
  write_weight(own, sums, call.kh, call.kw);
#pragma unroll
  for (int distance = warp_size / 2; distance > 0; distance /= 2) bias += shuffle_xor(bias, distance);
  if (lane == 0) own[taps] = bias;
  sync_threads();
  const int channels = call.picture.channels_last ? call.picture.block_planes : 1;
  const int channel = channel_group * channels;
  const int warps = static_cast<int>(blockDim.x) / warp_size / channels;  // that share a channel
  const int real = smaller(channels, call.picture.channels - channel);
  for (int index = static_cast<int>(threadIdx.x); index < real * (taps + 1); index += static_cast<int>(blockDim.x)) {
    const int offset = index / (taps + 1), tap = index - offset * (taps + 1);
    float sum = 0.0f;
    for (int i = 0; i < warps; ++i) sum += all[(offset * warps + i) * (taps + 1) + tap];
    const int64_t to = static_cast<int64_t>(part) * call.picture.channels + channel + offset;
    call.sums[to * (taps + 1) + tap] = sum;
  }
}

struct WeightBandedShape {
  WeightBanded call;
  int channel_groups, threads;
  int64_t shared_bytes;
};

// The number of parts that leaves the multiprocessors of an H200 idle least, each part counted two tiles longer.
inline int weight_banded_split(int64_t channel_groups, int64_t units, int64_t shared_bytes) {
  const int64_t slots = 132 * smaller(int64_t{weight_banded_blocks}, 227 * 1024 / (shared_bytes + 1024));
  const int64_t most = smaller(units, larger(int64_t{4}, 2 * slots / channel_groups));
  int64_t best = 1, least = INT64_MAX;
  for (int64_t split = 1; split <= most; ++split) {
    const int64_t cost = ceil_div(channel_groups * split, slots) * (ceil_div(units, split) + 2);
    if (cost < least) {
      best = split;
      least = cost;
    }
  }
  return static_cast<int>(best);
}

template <class Form>
WeightBandedShape weight_banded_shape(const DepthwiseConvWeight& given) {
  const DepthwiseConvWeight to = band_layout(given);
  const int64_t rows = ceil_div(to.h, smaller(to.dh, to.h)), columns = ceil_div(to.w, smaller(to.dw, to.w));
  const int planes = static_cast<int>(smaller(int64_t{8}, to.channels_last ? to.c : smaller(to.dw, to.w)));
  WeightBandedShape shape;
  WeightBanded& call = shape.call;
  call.picture = band_picture(to, planes);
  call.x = static_cast<const uint16_t*>(to.x);
  call.grad = static_cast<const uint16_t*>(to.grad);
  call.sums = static_cast<float*>(to.workspace);
  call.move_x = band_move(call.picture, to.x, 0);
  call.move_grad = band_move(call.picture, to.grad, 0);
  call.kh = to.kh;
  call.kw = to.kw;
  call.bias = to.grad_bias != nullptr;
  call.plane_warps = planes == 1 ? 8 : planes == 2 ? 4 : planes <= 4 ? 2 : 1;
  call.tile_rows = static_cast<int>(smaller(int64_t{planes <= 2 ? 32 : 16}, round_up(rows, int64_t{8})));
  call.tile_columns = static_cast<int>(smaller(int64_t{planes == 1 ? 128 : 64}, round_up(columns, int64_t{32})));
  call.tiles_y = static_cast<int>(ceil_div(rows, int64_t{call.tile_rows}));
  call.tiles_x = static_cast<int>(ceil_div(columns, int64_t{call.tile_columns}));
  call.input_pitch = 16 * (call.tile_columns / 8 | 1);
  call.copy_bytes = 2 * (call.tile_columns + weight_banded_left(Form::j_blocks, to.kw) + weight_banded_right(to.kw));
  // A warp reads up to 32 bytes of either copy at once: they lie in different banks.
  while (call.copy_bytes % 128 < 32 || call.copy_bytes % 128 > 96) call.copy_bytes += 16;
  call.input_bytes = (call.tile_rows + 8 * Form::row_blocks - Form::rows) * call.input_pitch;
  call.grad_bytes = call.tile_rows * 2 * call.copy_bytes;
  call.units = to.n * call.picture.phases() * call.tiles_y * call.tiles_x;
  shape.threads = planes * call.plane_warps * warp_size;
  const int64_t tiles = static_cast<int64_t>(planes) * (call.input_bytes + call.grad_bytes);
  // Copies that go through registers cannot run beside the products.
  call.buffers = to.channels_last || to.dw > 1 ? 1 : 2;
  call.buffer_bytes = static_cast<int>(tiles);
  shape.shared_bytes = larger(call.buffers * tiles, int64_t{4} * shape.threads / warp_size * (to.kh * to.kw + 1));
  shape.channel_groups = call.picture.channel_groups();
  call.split = weight_banded_split(shape.channel_groups, call.units, shape.shared_bytes);
  return shape;
}

template <class T, class Form>
int weight_banded_launch(const DepthwiseConvWeight& to, void* stream) {
  const WeightBandedShape shape = weight_banded_shape<Form>(to);
  const auto blocks = static_cast<unsigned>(static_cast<int64_t>(shape.channel_groups) * shape.call.split);
  const int status = LIGHTSR_LAUNCH((weight_banded_kernel<T, Form>), blocks, shape.threads,
                                    static_cast<size_t>(shape.shared_bytes), stream, shape.call);
  if (status != 0) return status;
  const int taps = to.kh * to.kw, threads = warp_size * weight_banded_sum_rows;
  const auto sum_blocks = static_cast<unsigned>(ceil_div(to.c * (taps + 1), int64_t{warp_size}));
  const float* sums = shape.call.sums;
  return LIGHTSR_LAUNCH(weight_banded_sum_kernel<T>, sum_blocks, threads, threads * sizeof(float), stream, to, sums,
                        shape.call.split);
}

// Calls run(form) with the smallest form that holds the filter.
template <class Run>
auto with_weight_banded_form(int kh, int kw, Run run) {
  const auto holds = [&](auto form) { return kw <= 8 * form.j_blocks && kh + form.rows - 1 <= 8 * form.row_blocks; };
  if (holds(WeightBanded7())) return run(WeightBanded7());
  if (holds(WeightBanded13())) return run(WeightBanded13());
  if (holds(WeightBanded15())) return run(WeightBanded15());
  if (holds(WeightBanded23())) return run(WeightBanded23());
  return run(WeightBanded31());
}

// Single columns and rows, and lattices of a few numbers, leave the tensor cores nearly empty.
inline bool weight_banded_takes(const DepthwiseConvWeight& to) {
  const bool type = to.type == Type::float16 || to.type == Type::bfloat16;
  const bool sizes = fits_banded(to) && lattice_size(to) >= 64 && to.c < int64_t{1} << 20;
  return type && to.kh >= 3 && to.kw >= 3 && sizes;
}

inline int64_t weight_banded_workspace(const DepthwiseConvWeight& to) {
  return with_weight_banded_form(to.kh, to.kw, [&](auto form) {
    return int64_t{4} * weight_banded_shape<decltype(form)>(to).call.split * to.c * (to.kh * to.kw + 1);
  });
}

inline int weight_banded(const DepthwiseConvWeight& to, void* stream) {
  return with_weight_banded_form(to.kh, to.kw, [&](auto form) {
    using Form = decltype(form);
    return to.type == Type::float16 ? weight_banded_launch<Half, Form>(to, stream)
                                    : weight_banded_launch<BFloat16, Form>(to, stream);
  });
}

}  // namespace lightsr
