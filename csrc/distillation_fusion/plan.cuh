// How distillation_fusion's kernels cut a call into blocks, and the channels of all parts into slots.
#pragma once

#include "../common/activation.cuh"
#include "../common/block_tile.cuh"
#include "../common/launch.cuh"
#include "../common/product.cuh"
#include "arguments.h"

namespace lightsr::fusion {

constexpr int side = 64;  // channels a block makes of a result
constexpr int slot = 16;  // neighbouring channels of one part: what a tile is put together from

// Channels, or pixels, that a product goes through at once.
template <class T>
__host__ __device__ constexpr int depth_of() {
  return sizeof(T) == 2 ? 64 : 32;
}

// The pixels of a block's tile are `side` or twice that. A thread makes `items` items of the product.
template <class T>
__host__ __device__ constexpr int items_of(int pixels) {
  return sizeof(T) == 2 ? pixels / 64 : 1;
}
template <class T>
__host__ __device__ constexpr int threads_of(int pixels) {
  using Units = Product<T>;
  return pixels / Units::columns * (side / Units::rows) * Units::lanes / items_of<T>(pixels);
}

// Blocks on a multiprocessor that the compiler leaves registers for.
template <class T>
__host__ __device__ constexpr int resident(int pixels) {
  return (sizeof(T) == 8 ? 256 : 512) / threads_of<T>(pixels);
}

struct FusionPlan {
  int pixels;        // a block's, of one picture
  int slots;         // of all parts together
  int part_bytes;    // of a run of any part
  int weight_bytes;  // of a run of the weights within a slot
  int out_bytes;     // of a run of what has the result's channels
  unsigned tiles;    // of one picture
  unsigned groups;   // blocks that share a tile of pixels
};

// The next slot of all parts: `channels` of `part` from `first` on, which are `column` and so on of the weights.
class SlotWalk {
 public:
  int part = 0;
  int64_t first = 0, column = 0;

  __device__ __forceinline__ explicit SlotWalk(const DistillationFusion& call) { skip(call); }
  __device__ __forceinline__ int channels(const DistillationFusion& call) const {
    return static_cast<int>(smaller<int64_t>(slot, call.channels[part] - first));
  }
  __device__ __forceinline__ void next(const DistillationFusion& call) {
    const int taken = channels(call);
    first += taken;
    column += taken;
    if (first < call.channels[part]) return;
    first = 0;
    ++part;
    skip(call);
  }

 private:
  // Past parts without channels.
  __device__ __forceinline__ void skip(const DistillationFusion& call) {
    while (part < call.parts && call.channels[part] == 0) ++part;
  }
};

// A tile's pixels.
struct Pixels {
  int64_t picture, first;
  int count;
};

__device__ __forceinline__ Pixels tile_pixels(const DistillationFusion& call, int pixels, int64_t picture,
                                              int64_t tile) {
  const int64_t first = tile * pixels;
  return {picture, first, static_cast<int>(smaller<int64_t>(pixels, call.pixels - first))};
}

// The first number of these pixels of channel `channel` on, of a slice and of a dense picture of so many channels.
template <class T, bool last>
__device__ __forceinline__ const T* slice_at(const Slice& slice, const Pixels& pixels, int64_t channel) {
  const int64_t pixel_step = last ? slice.step : 1, channel_step = last ? 1 : slice.step;
  return static_cast<const T*>(slice.data) + pixels.picture * slice.picture + pixels.first * pixel_step +
         channel * channel_step;
}

template <bool last>
__device__ __forceinline__ int64_t dense_at(const DistillationFusion& call, int64_t channels, const Pixels& pixels,
                                            int64_t channel) {
  return pixels.picture * channels * call.pixels +
         (last ? pixels.first * channels + channel : pixels.first + channel * call.pixels);
}

template <class T>
__device__ __forceinline__ Sum<T> one_number(const void* from) {
  return from != nullptr ? to_sum(*static_cast<const T*>(from)) : Sum<T>(1);
}

// Brings `channels` channels of a part, times its map, into a tile whose first channel has its place at `to`, with
// zeros up to `wanted` channels; asynchronously where there is no map. Beyond the pixels that are there, nothing is
// written.
template <class T, bool last>
__device__ __forceinline__ void load_channels(T* to, int pitch, const T* from, int64_t step, const T* map, int channels,
                                              int wanted, int count, int bytes) {
  const int rows = last ? count : channels, columns = last ? channels : count;
  if (map == nullptr) {
    load_tile(to, pitch, from, step, rows, columns, bytes);
  } else {
    using S = Sum<T>;
    each_run<T>(rows, columns, bytes, [&](int row, int column, auto number) {
      constexpr int many = decltype(number)::value;
      S values[many], factors[many];
      get_run(from + row * step + column, values);
      if (last) {
        const S factor = to_sum(map[row]);
#pragma unroll
        for (int i = 0; i < many; ++i) values[i] *= factor;
      } else {
        get_run(map + column, factors);
#pragma unroll
        for (int i = 0; i < many; ++i) values[i] *= factors[i];
      }
      put_run(to + row * pitch + column, values);
    });
  }
  if (channels == wanted) return;
  if (last) {
    clear_tile(to, pitch, 0, count, channels, wanted);
  } else {
    clear_tile(to, pitch, channels, wanted, 0, count);
  }
}

// A map's first number of these pixels, or null.
template <class T>
__device__ __forceinline__ const T* map_at(const DistillationFusion& call, int part, const Pixels& pixels) {
  if (call.map[part] == nullptr) return nullptr;
  return static_cast<const T*>(call.map[part]) + pixels.picture * call.pixels + pixels.first;
}

// rows x columns weights, those of a column times its scale, with zeros up to all_rows x all_columns; asynchronously
// where there is no scale. The weights' rows are `step` apart.
template <class T>
__device__ __forceinline__ void load_weights(T* to, int pitch, const T* from, int64_t step, const T* scale, int rows,
                                             int columns, int all_rows, int all_columns, int bytes) {
  if (scale == nullptr) {
    load_tile(to, pitch, from, step, rows, columns, bytes);
  } else {
    each_run<T>(rows, columns, bytes, [&](int row, int column, auto number) {
      constexpr int many = decltype(number)::value;
      Sum<T> values[many];
      get_run(from + row * step + column, values);
#pragma unroll
      for (int i = 0; i < many; ++i) values[i] *= to_sum(scale[column + i]);
      put_run(to + row * pitch + column, values);
    });
  }
  clear_around(to, pitch, rows, columns, all_rows, all_columns);
}

// The scales of a picture from a column on, or null.
template <class T>
__device__ __forceinline__ const T* scale_at(const DistillationFusion& call, int64_t picture, int64_t column) {
  if (call.scale == nullptr) return nullptr;
  return static_cast<const T*>(call.scale) + picture * call.in + column;
}

// A product over many chunks of its depth, the operands of one coming in while the one before is multiplied. `load`
// brings chunk (number, buffer); `operands` are those of a buffer and depth (chunk, buffer); `also` may read a buffer's
// tiles (chunk, buffer) before it is filled anew.
template <bool a_turned, bool b_turned, class Units, int items, class Load, class Get, class Also>
__device__ __forceinline__ void accumulate(Units (&product)[items], int chunks, const Load& load, const Get& operands,
                                           const Also& also) {
  load(0, 0);
  copy_commit();
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (chunk + 1 < chunks) load(chunk + 1, (chunk + 1) % 2);
    copy_commit();
    copy_wait<1>();
    sync_threads();
    const auto from = operands(chunk, chunk % 2);
    const int across = from.columns / Units::columns, first = static_cast<int>(threadIdx.x) / Units::lanes;
#pragma unroll
    for (int i = 0; i < items; ++i) {
      const int item = first + i * static_cast<int>(blockDim.x) / Units::lanes;
      product[i].template add<a_turned, b_turned>(from, item / across * Units::rows, item % across * Units::columns);
    }
    also(chunk, chunk % 2);
    sync_threads();
  }
  copy_wait<0>();
}

template <bool b_turned, class Units, int items, class Put>
__device__ __forceinline__ void finish(const Units (&product)[items], int columns, const Put& put) {
  const int across = columns / Units::columns, first = static_cast<int>(threadIdx.x) / Units::lanes;
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int item = first + i * static_cast<int>(blockDim.x) / Units::lanes;
    product[i].template finish<b_turned>(item / across * Units::rows, item % across * Units::columns, columns, put);
  }
}

// A matrix or a tile in shared memory: rows x pitch.
template <class T>
__host__ __device__ constexpr int numbers_of(int rows, int columns) {
  return rows * odd_row<T>(columns);
}

template <class T>
FusionPlan fusion_plan(const DistillationFusion& call) {
  FusionPlan plan{};
  Alignment part(sizeof(T)), weight(sizeof(T));
  weight.pointer(call.weight).pointer(call.scale).step(call.in);
  for (int i = 0; i < call.parts; ++i) {
    plan.slots += static_cast<int>(ceil_div<int64_t>(call.channels[i], slot));
    part.pointer(call.part[i].data).step(call.part[i].picture).step(call.part[i].step).pointer(call.map[i]);
    part.step(call.channels_last ? call.channels[i] : call.pixels);
    weight.step(call.channels[i]);
  }
  plan.part_bytes = part.bytes();
  plan.weight_bytes = weight.bytes();
  return plan;
}

template <class T>
Alignment out_alignment(const DistillationFusion& call, const void* out) {
  Alignment all(sizeof(T));
  all.pointer(out).step(call.channels_last ? call.out_channels : call.pixels);
  return all;
}

inline bool cut(const DistillationFusion& call, int pixels, int64_t groups, FusionPlan& plan) {
  const int64_t tiles = ceil_div<int64_t>(call.pixels, pixels);
  if (double(call.n) * double(tiles) * double(groups) >= 2147483648.0) return false;
  plan.pixels = pixels;
  plan.tiles = static_cast<unsigned>(tiles);
  plan.groups = static_cast<unsigned>(groups);
  return true;
}

}  // namespace lightsr::fusion
