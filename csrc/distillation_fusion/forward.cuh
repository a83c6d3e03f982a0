// distillation_fusion's forward pass: a 1x1 convolution of parts that are never joined.
//
//   out = gain (weight (scale [part_0 map_0, part_1 map_1, ...]) + bias) + residual_gain residual
//
// Floor: parts, maps and residual read, out written, once; in x out_channels FMA a pixel. Bound by memory for 16-bit
// types on tensor cores (six parts of 64 to 64 at (180, 320): 52 MB, 11 us on an H200), by FMA units in float32 (2.8
// GFLOP, 47 us at 60 TFLOP/s, beside 21 us).
//
// Plan: a block makes 64 channels of 64 or 128 neighbouring pixels. It goes through the channels of all parts by slots
// of 16, none of which reaches over two parts, 64 (32 in wide types) at a time: these and their weights come into one
// half of shared memory while the product of the other half is under way. A part's map is multiplied in as it comes in,
// the picture's scale into the weights. In NCHW rows of the product are channels, in channels_last pixels, so that
// tiles lie as in the picture; the residual comes in with the first of them, and the result goes out from its place.
#pragma once

#include "plan.cuh"

namespace lightsr::fusion {

template <class T, bool last>
__host__ __device__ constexpr int part_numbers(int pixels) {
  return last ? numbers_of<T>(pixels, depth_of<T>()) : numbers_of<T>(depth_of<T>(), pixels);
}
template <class T, bool last>
__host__ __device__ constexpr int out_numbers(int pixels) {
  return last ? numbers_of<T>(pixels, side) : numbers_of<T>(side, pixels);
}

template <class T, bool last, int pixels>
__global__ void __launch_bounds__(threads_of<T>(pixels), resident<T>(pixels))
    fusion_forward(const __grid_constant__ DistillationFusion call, const FusionPlan plan) {
  using S = Sum<T>;
  using Units = Product<T>;
  constexpr int depth = depth_of<T>(), part_pitch = odd_row<T>(last ? depth : pixels), weight_pitch = odd_row<T>(depth);
  constexpr int out_pitch = odd_row<T>(last ? side : pixels), part_size = part_numbers<T, last>(pixels);
  T* const parts = shared_memory<T>();
  T* const weights = parts + 2 * part_size;
  T* const out = weights + 2 * numbers_of<T>(side, depth);

  const int64_t group = blockIdx.x % plan.groups, tile = blockIdx.x / plan.groups;
  const Pixels here = tile_pixels(call, pixels, tile / plan.tiles, tile % plan.tiles);
  const int64_t first_out = group * side;
  const int outs = static_cast<int>(smaller<int64_t>(side, call.out_channels - first_out));
  const int rows = last ? here.count : outs, columns = last ? outs : here.count;
  const bool residual = call.residual.data != nullptr;
  if (residual) {
    load_tile(out, out_pitch, slice_at<T, last>(call.residual, here, first_out), call.residual.step, rows, columns,
              plan.out_bytes);
  }

  SlotWalk walk(call);
  const auto load = [&](int chunk, int buffer) {
    const int slots = smaller(depth / slot, plan.slots - chunk * (depth / slot));
#pragma unroll 1
    for (int i = 0; i < slots; ++i, walk.next(call)) {
      const int channels = walk.channels(call);
      const Slice& part = call.part[walk.part];
      load_channels<T, last>(parts + buffer * part_size + i * slot * (last ? 1 : part_pitch), part_pitch,
                             slice_at<T, last>(part, here, walk.first), part.step, map_at<T>(call, walk.part, here),
                             channels, slot, here.count, plan.part_bytes);
      load_weights(weights + buffer * numbers_of<T>(side, depth) + i * slot, weight_pitch,
                   static_cast<const T*>(call.weight) + first_out * call.in + walk.column, call.in,
                   scale_at<T>(call, here.picture, walk.column), outs, channels, side, slot, plan.weight_bytes);
    }
  };
  const auto operands = [&](int chunk, int buffer) {
    const int slots = smaller(depth / slot, plan.slots - chunk * (depth / slot));
    const T *part = parts + buffer * part_size, *weight = weights + buffer * numbers_of<T>(side, depth);
    return last ? Operands<T>{part, part_pitch, weight, weight_pitch, slots * slot, pixels, side}
                : Operands<T>{weight, weight_pitch, part, part_pitch, slots * slot, side, pixels};
  };
  Units product[items_of<T>(pixels)];
  accumulate<false, last>(product, ceil_div(plan.slots, depth / slot), load, operands, [](int, int) {});

  const S gain = one_number<T>(call.gain), residual_gain = one_number<T>(call.residual_gain);
  finish<last>(product, last ? side : pixels, [&](int row, int column, const auto& sums) {
    constexpr int many = sizeof(sums) / sizeof(S);
    T* const to = out + row * out_pitch + column;
    S values[many], more[many];
    if (residual) get_run(to, more);
#pragma unroll
    for (int i = 0; i < many; ++i) {
      const int channel = last ? column + i : row;
      const bool biased = call.bias != nullptr && channel < outs;
      values[i] = sums[i] + (biased ? to_sum(static_cast<const T*>(call.bias)[first_out + channel]) : S(0));
      values[i] *= gain;
      if (residual) values[i] += residual_gain * more[i];
    }
    put_run(to, values);
  });
  sync_threads();
  T* const to = static_cast<T*>(call.out) + dense_at<last>(call, call.out_channels, here, first_out);
  store_tile(to, last ? call.out_channels : call.pixels, out, out_pitch, rows, columns, plan.out_bytes);
}

template <class T, bool last, int pixels>
int forward_launch(const DistillationFusion& call, const FusionPlan& plan, void* stream) {
  constexpr int numbers =
      2 * (part_numbers<T, last>(pixels) + numbers_of<T>(side, depth_of<T>())) + out_numbers<T, last>(pixels);
  const auto blocks = static_cast<unsigned>(call.n * plan.tiles * plan.groups);
  return LIGHTSR_LAUNCH((fusion_forward<T, last, pixels>), blocks, threads_of<T>(pixels), numbers * sizeof(T), stream,
                        call, plan);
}

template <class T, bool last>
int forward(const DistillationFusion& call, void* stream) {
  FusionPlan plan = fusion_plan<T>(call);
  Alignment out = out_alignment<T>(call, call.out);
  if (call.residual.data != nullptr) {
    out.pointer(call.residual.data).step(call.residual.picture).step(call.residual.step);
  }
  plan.out_bytes = out.bytes();
  const int64_t groups = ceil_div<int64_t>(call.out_channels, side);
  constexpr int wide = sizeof(T) == 8 ? side : 2 * side;
  // Wide tiles where they are enough for the device.
  if (!cut(call, wide, groups, plan)) return 9;  // cudaErrorInvalidConfiguration
  if (call.n * plan.tiles * groups >= 2 * multiprocessors()) return forward_launch<T, last, wide>(call, plan, stream);
  cut(call, side, groups, plan);
  return forward_launch<T, last, side>(call, plan, stream);
}

}  // namespace lightsr::fusion
