// distillation_fusion's gradients of the parts and of their maps.
//
//   G = gain scale (weight' grad), grad_part = map G, grad_map = sum over the part's channels of part G
//
// Floor: grad read, every grad_part written, once, and each part read where its map's gradient is wanted; as many FMA
// as forward.
//
// Plan: a block makes all channels of one part for 64 or 128 neighbouring pixels, 64 channels at a time, as products of
// the turned weights with grad, by the pipeline of plan.cuh. The parts' blocks of the same pixels are neighbours, so
// that grad comes from the cache for all but one of them. G goes through shared memory and out by 16 bytes; there it
// meets the part for the map's gradient, of which a block has all channels.
#pragma once

#include "forward.cuh"

namespace lightsr::fusion {

template <class T, bool last, int pixels>
__global__ void __launch_bounds__(threads_of<T>(pixels), resident<T>(pixels))
    fusion_backward_pictures(const __grid_constant__ DistillationFusionBackward all, const FusionPlan plan) {
  using S = Sum<T>;
  using Units = Product<T>;
  constexpr int depth = depth_of<T>(), grad_pitch = odd_row<T>(last ? depth : pixels), weight_pitch = odd_row<T>(side);
  constexpr int out_pitch = odd_row<T>(last ? side : pixels), grad_size = part_numbers<T, last>(pixels);
  constexpr int weight_size = numbers_of<T>(depth, side);
  const DistillationFusion& call = all.call;
  T* const grads = shared_memory<T>();
  T* const weights = grads + 2 * grad_size;
  T* const out = weights + 2 * weight_size;
  S* const map_sums = reinterpret_cast<S*>(out + out_numbers<T, last>(pixels));

  const int part = static_cast<int>(blockIdx.x % plan.groups);
  const int64_t tile = blockIdx.x / plan.groups;
  if (all.grad_part[part] == nullptr && all.grad_map[part] == nullptr) return;
  const Pixels here = tile_pixels(call, pixels, tile / plan.tiles, tile % plan.tiles);
  const S gain = one_number<T>(call.gain);
  const T* const map = map_at<T>(call, part, here);
  const int64_t channels = call.channels[part], outs = call.out_channels;
  int64_t column = 0;
  for (int i = 0; i < part; ++i) column += call.channels[i];
  for (int i = static_cast<int>(threadIdx.x); i < pixels; i += static_cast<int>(blockDim.x)) map_sums[i] = S(0);

#pragma unroll 1
  for (int64_t first = 0; first < channels; first += side) {
    const int ins = static_cast<int>(smaller<int64_t>(side, channels - first));
    const auto taken = [&](int chunk) {
      return static_cast<int>(smaller<int64_t>(depth, outs - int64_t(chunk) * depth));
    };
    const auto load = [&](int chunk, int buffer) {
      const int real = taken(chunk), wanted = round_up(real, slot);
      const int64_t from = int64_t(chunk) * depth;
      load_channels<T, last>(grads + buffer * grad_size, grad_pitch,
                             static_cast<const T*>(all.grad) + dense_at<last>(call, outs, here, from),
                             last ? outs : call.pixels, nullptr, real, wanted, here.count, plan.out_bytes);
      load_weights<T>(weights + buffer * weight_size, weight_pitch,
                      static_cast<const T*>(call.weight) + from * call.in + column + first, call.in, nullptr, real, ins,
                      wanted, side, plan.weight_bytes);
    };
    const auto operands = [&](int chunk, int buffer) {
      const int wanted = round_up(taken(chunk), slot);
      const T *grad = grads + buffer * grad_size, *weight = weights + buffer * weight_size;
      return last ? Operands<T>{grad, grad_pitch, weight, weight_pitch, wanted, pixels, side}
                  : Operands<T>{weight, weight_pitch, grad, grad_pitch, wanted, side, pixels};
    };
    Units product[items_of<T>(pixels)];
    accumulate<!last, false>(product, static_cast<int>(ceil_div<int64_t>(outs, depth)), load, operands,
                             [](int, int) {});
    const T* const scale = scale_at<T>(call, here.picture, column + first);
    finish<false>(product, last ? side : pixels, [&](int row, int at, const auto& sums) {
      constexpr int many = sizeof(sums) / sizeof(S);
      S values[many];
#pragma unroll
      for (int i = 0; i < many; ++i) {
        const int channel = last ? at + i : row;
        values[i] = sums[i] * gain;
        if (scale != nullptr && channel < ins) values[i] *= to_sum(scale[channel]);
      }
      put_run(out + row * out_pitch + at, values);
    });
    sync_threads();

    const Slice& slice = call.part[part];
    const T* from = slice_at<T, last>(slice, here, first);
    T* const to = all.grad_part[part] == nullptr
                      ? nullptr
                      : static_cast<T*>(all.grad_part[part]) + dense_at<last>(call, channels, here, first);
    const int64_t step = last ? channels : call.pixels;
    each_run<T>(last ? here.count : ins, last ? ins : here.count, plan.part_bytes, [&](int row, int at, auto number) {
      constexpr int many = decltype(number)::value;
      S values[many], more[many];
      T* const each = out + row * out_pitch + at;
      get_run(each, values);
      if (all.grad_map[part] != nullptr) {
        get_run(from + row * slice.step + at, more);
#pragma unroll
        for (int i = 0; i < many; ++i) more[i] *= values[i];
        put_run(each, more);
      }
      if (to == nullptr) return;
#pragma unroll
      for (int i = 0; i < many; ++i) values[i] *= map != nullptr ? to_sum(map[last ? row : at + i]) : S(1);
      put_run(to + row * step + at, values);
    });
    if (all.grad_map[part] == nullptr) continue;
    sync_threads();
    sum_lines<S>(
        here.count, ins,
        [&](int pixel, int channel) {
          return to_sum(out[last ? pixel * out_pitch + channel : channel * out_pitch + pixel]);
        },
        [&](int pixel, S sum) { map_sums[pixel] += sum; });
  }
  if (all.grad_map[part] == nullptr) return;
  sync_threads();
  T* const to = static_cast<T*>(all.grad_map[part]) + here.picture * call.pixels + here.first;
  for (int i = static_cast<int>(threadIdx.x); i < here.count; i += static_cast<int>(blockDim.x)) {
    to[i] = from_sum<T>(map_sums[i]);
  }
}

template <class T, bool last, int pixels>
int pictures_launch(const DistillationFusionBackward& all, const FusionPlan& plan, void* stream) {
  constexpr int numbers =
      2 * (part_numbers<T, last>(pixels) + numbers_of<T>(depth_of<T>(), side)) + out_numbers<T, last>(pixels);
  const auto blocks = static_cast<unsigned>(all.call.n * plan.tiles * plan.groups);
  const size_t bytes = numbers * sizeof(T) + pixels * sizeof(Sum<T>);
  return LIGHTSR_LAUNCH((fusion_backward_pictures<T, last, pixels>), blocks, threads_of<T>(pixels), bytes, stream, all,
                        plan);
}

template <class T, bool last>
int backward_pictures(const DistillationFusionBackward& all, void* stream) {
  const DistillationFusion& call = all.call;
  FusionPlan plan = fusion_plan<T>(call);
  plan.out_bytes = out_alignment<T>(call, all.grad).bytes();
  bool wanted = false;
  for (int i = 0; i < call.parts; ++i) {
    plan.part_bytes = smaller(plan.part_bytes, Alignment(sizeof(T)).pointer(all.grad_part[i]).bytes());
    wanted = wanted || all.grad_part[i] != nullptr || all.grad_map[i] != nullptr;
  }
  if (!wanted) return 0;
  constexpr int wide = sizeof(T) == 8 ? side : 2 * side;
  if (!cut(call, wide, call.parts, plan)) return 9;  // cudaErrorInvalidConfiguration
  if (call.n * plan.tiles * plan.groups >= 2 * multiprocessors()) {
    return pictures_launch<T, last, wide>(all, plan, stream);
  }
  cut(call, side, call.parts, plan);
  return pictures_launch<T, last, side>(all, plan, stream);
}

}  // namespace lightsr::fusion
