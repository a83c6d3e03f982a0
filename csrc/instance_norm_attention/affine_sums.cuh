// The sums of dy and of dy (x - centre) over every plane.
//
// Floor: grad and x read once, and 20 bytes of maps a pixel beside 512 at C = 64 in float32: bound by memory, 6 us for
// (1, 64, 180, 320) in float32 on an H200.
//
// Plan: NCHW: a warp keeps the maps of up to 256 pixels in registers, 8 a lane, and goes through every eighth channel
// of a block; a channel's sums meet by shuffles and are one part of the plane (parts.cuh). channels_last: a block takes
// the channels of a stretch of pixels as in moments.cuh, the maps in shared memory; the slots of a channel meet there.
// Sums of at most 256 numbers are made in float32, all beyond in float64. At (1, 64, 180, 320) in float32 225 parts of
// a plane, by 675 blocks, or 450 by as many.
#pragma once

#include "parts.cuh"

namespace lightsr::norm {

template <class T, int by>
constexpr int sums_runs = (sizeof(T) == 8 ? 4 : 8) / by;  // vectors of a lane

// A thread's share of both sums.
template <class S>
struct GradientSums {
  S plain, about;

  __device__ __forceinline__ void add(S dy, S offset) {
    plain += dy;
    about = multiply_add(dy, offset, about);
  }
};

template <class T, int by>
PartsPlan sums_planes_plan(const AffineBackward& call) {
  PartsPlan plan{};
  const int64_t area = call.h * call.w;
  plan.vectors = by > 1;
  plan.part = warp_size * by * sums_runs<T, by>;
  plan.slots = static_cast<int>(smaller<int64_t>(block_threads / warp_size, call.c));  // warps
  plan.parts = blocks_or_none(static_cast<double>(ceil_div(area, plan.part)));
  const double tiles = static_cast<double>(call.n) * plan.parts;
  const auto wanted = ceil_div<int64_t>(enough_blocks, static_cast<int64_t>(smaller(larger(tiles, 1.0), 1e6)));
  plan.channels = ceil_div(call.c, larger<int64_t>(1, smaller(ceil_div<int64_t>(call.c, plan.slots), wanted)));
  plan.groups = static_cast<unsigned>(ceil_div(call.c, plan.channels));
  return parts_finished(call, plan, tiles * plan.groups);
}

template <class T, int by>
__global__ void __launch_bounds__(block_threads, 2) sums_planes(const AffineBackward call, const PartsPlan plan) {
  using S = Sum<T>;
  constexpr int runs = sums_runs<T, by>;
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const unsigned rest = blockIdx.x / plan.groups;
  const int64_t n = rest / plan.parts, part = rest % plan.parts, area = call.h * call.w;
  const int64_t pixel = part * plan.part + lane * by;
  PixelGradient<S> pixels[runs][by];
#pragma unroll
  for (int j = 0; j < runs; ++j) {
#pragma unroll
    for (int i = 0; i < by; ++i) {
      const int64_t at = pixel + j * warp_size * by + i;
      pixels[j][i] = at < area ? pixel_gradient<S>(call, n, at) : no_gate<S>();
    }
  }
  const int64_t first = blockIdx.x % plan.groups * plan.channels, end = smaller(call.c, first + plan.channels);
#pragma unroll 2
  for (int64_t c = first + warp; c < end; c += plan.slots) {
    const int64_t plane = n * call.c + c, from = plane * area + pixel;
    Vector<T, by> x[runs], grad[runs];
#pragma unroll
    for (int j = 0; j < runs; ++j) {
      if (pixel + j * warp_size * by >= area) continue;
      x[j] = load_vector<by>(static_cast<const T*>(call.x) + from + j * warp_size * by);
      grad[j] = load_vector<by>(static_cast<const T*>(call.grad) + from + j * warp_size * by);
    }
    Affine<S> affine[1];
    load_affine(affine, call, plane);
    GradientSums<S> sums{};
#pragma unroll
    for (int j = 0; j < runs; ++j) {
      if (pixel + j * warp_size * by >= area) continue;
#pragma unroll
      for (int i = 0; i < by; ++i) {
        const S number = to_sum(x[j][i]);
        sums.add(pixels[j][i](to_sum(grad[j][i]), affine[0].y(number)), affine[0].offset(number));
      }
    }
    const S plain = warp_sum(sums.plain), about = warp_sum(sums.about);
    if (lane == 0) static_cast<Slot*>(call.workspace)[plane * plan.parts + part] = {plain, about};
  }
}

template <class T, int by>
__global__ void __launch_bounds__(block_threads, 2) sums_pixels(const AffineBackward call, const PartsPlan plan) {
  using S = Sum<T>;
  constexpr int at_once = 2;
  const PixelPart<by> at(call, plan);
  auto* const pixels = shared_memory<PixelGradient<S>>();
  if (call.gate != nullptr) {
    for (int p = static_cast<int>(threadIdx.x); p < at.pixels; p += block_threads) {
      pixels[p] = pixel_gradient<S>(call, at.n, at.first + p);
    }
    sync_threads();
  }
  GradientSums<S> sums[by] = {};
  if (at.busy) {
    Affine<S> affine[by];
    load_affine(affine, call, at.n * call.c + at.channel);
    const int64_t from = (at.n * call.h * call.w + at.first) * call.c + at.channel;
    for (int pixel = at.slot; pixel < at.pixels; pixel += at_once * plan.slots) {
      Vector<T, by> x[at_once], grad[at_once];
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        const int p = pixel + j * plan.slots;
        if (p >= at.pixels) continue;
        x[j] = load_vector<by>(static_cast<const T*>(call.x) + from + p * call.c);
        grad[j] = load_vector<by>(static_cast<const T*>(call.grad) + from + p * call.c);
      }
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        const int p = pixel + j * plan.slots;
        if (p >= at.pixels) continue;
        const PixelGradient<S> own = call.gate != nullptr ? pixels[p] : no_gate<S>();
#pragma unroll
        for (int i = 0; i < by; ++i) {
          const S number = to_sum(x[j][i]);
          sums[i].add(own(to_sum(grad[j][i]), affine[i].y(number)), affine[i].offset(number));
        }
      }
    }
  }
  sync_threads();                        // the maps are done with
  S* const shared = shared_memory<S>();  // [slots, 2, channels]
  const int channels = static_cast<int>(plan.channels);
  if (at.busy) {
    S* const to = shared + at.slot * 2 * channels + at.vector * by;
#pragma unroll
    for (int i = 0; i < by; ++i) to[i] = sums[i].plain, to[channels + i] = sums[i].about;
  }
  sync_threads();
  const int64_t group = at.channel - at.vector * by;
  for (int c = static_cast<int>(threadIdx.x); c < channels && group + c < call.c; c += block_threads) {
    double plain = 0, about = 0;
    for (int slot = 0; slot < plan.slots; ++slot) {
      plain += shared[slot * 2 * channels + c], about += shared[(slot * 2 + 1) * channels + c];
    }
    static_cast<Slot*>(call.workspace)[(at.n * call.c + group + c) * plan.parts + at.part] = {plain, about};
  }
}

__global__ void __launch_bounds__(merge_threads) sums_merge(const AffineBackward call, const PartsPlan plan) {
  const int64_t plane = blockIdx.x, planes = call.n * call.c;
  const Slot* const slots = static_cast<const Slot*>(call.workspace) + plane * plan.parts;
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  Slot sum{0, 0};
#pragma unroll 4
  for (int64_t part = threadIdx.x; part < plan.parts; part += merge_threads) {
    const Slot slot = slots[part];
    sum[0] += slot[0], sum[1] += slot[1];
  }
  sum = {warp_sum(sum[0]), warp_sum(sum[1])};
  auto* const warps = shared_memory<Slot>();
  if (lane == 0) warps[warp] = sum;
  sync_threads();
  if (threadIdx.x != 0) return;
  for (int other = 1; other < merge_threads / warp_size; ++other) {
    sum[0] += warps[other][0], sum[1] += warps[other][1];
  }
  call.sums[plane] = sum[0];
  call.sums[planes + plane] = sum[1];
}

template <class T>
PartsPlan affine_sums_plan(const AffineBackward& call) {
  using S = Sum<T>;
  constexpr int by = vector_of<T>;
  const bool vectors = at_16(call.x) && at_16(call.grad) && channels_at_16(call) &&
                       (call.channels_last ? call.c : call.h * call.w) % by == 0;
  if (!call.channels_last) return vectors ? sums_planes_plan<T, by>(call) : sums_planes_plan<T, 1>(call);
  PartsPlan plan = pixel_parts(call, vectors, vectors ? by : 1, 2 * sizeof(S));
  const auto maps = static_cast<size_t>(smaller(plan.part, call.h * call.w)) * sizeof(PixelGradient<S>);
  plan.shared_bytes = larger(plan.shared_bytes, maps);
  return plan;
}

template <class T>
int affine_sums_launch(const AffineBackward& call, void* stream) {
  constexpr int by = vector_of<T>;
  const PartsPlan plan = affine_sums_plan<T>(call);
  const unsigned planes = blocks_or_none(static_cast<double>(call.n) * static_cast<double>(call.c));
  if (plan.blocks == 0 || planes == 0) return invalid_configuration;
  const unsigned threads = call.channels_last ? block_threads : static_cast<unsigned>(plan.slots) * warp_size;
  const auto start = [&](auto kernel) {
    return LIGHTSR_LAUNCH(kernel, plan.blocks, threads, plan.shared_bytes, stream, call, plan);
  };
  const int error = call.channels_last ? (plan.vectors ? start(sums_pixels<T, by>) : start(sums_pixels<T, 1>))
                                       : (plan.vectors ? start(sums_planes<T, by>) : start(sums_planes<T, 1>));
  if (error != 0) return error;
  constexpr size_t bytes = merge_threads / warp_size * sizeof(Slot);
  return LIGHTSR_LAUNCH(sums_merge, planes, merge_threads, bytes, stream, call, plan);
}

}  // namespace lightsr::norm
