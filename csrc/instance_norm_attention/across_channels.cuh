// The passes that bring all channels of a pixel together, for each pixel on its own:
//
//   channel_pool   pooled = mean and maximum of y
//   gate_gradient  grad_logit = gate (1 - gate) sum of grad y,  share = 1 / (channels whose y is the pooled maximum)
//
// Floor: x read once, for gate_gradient grad too, and two maps of 4 bytes a pixel written (1 / 32 of x at C = 64,
// float32): bound by memory, 3 us and 6 us for (1, 64, 180, 320) in float32 on an H200.
//
// Plan, NCHW: a thread owns the pixels of one 16-byte load, a warp 32 such; the 8 warps of a block share out the
// channels, each taking every eighth and four loads at once, and add up in shared memory in the order of the warps.
// channels_last: 1 to 32 lanes share a pixel, each with 16 bytes of channels at a time, for four pixels at once, so
// that the numbers for each channel come in once for four; they add up by shuffles. A block takes 128 pixels of 64
// channels in float32: 450 blocks at (1, 64, 180, 320).
#pragma once

#include "affine.cuh"

namespace lightsr::norm {

struct AcrossPlan {
  bool vectors;
  int lanes;   // that share a pixel's channels
  int pixels;  // of a block
  unsigned tiles, blocks;
  size_t shared_bytes;  // NCHW: the numbers of up to 256 channels, then [lanes, pixels] states
};

constexpr int across_at_once = 4;  // pixels of a thread in channels_last

template <class S>
struct Pool {
  using Call = ChannelPool;
  static constexpr bool backward = false;
  struct State {
    S sum, top;
  };
  static __device__ __forceinline__ State begin() { return {S(0), -S(INFINITY)}; }
  static __device__ __forceinline__ void add(State& state, S y, S, S) { merge(state, {y, y}); }
  static __device__ __forceinline__ void merge(State& state, const State& other) {
    state.sum += other.sum;
    state.top = maximum(state.top, other.top);
  }
  static __device__ __forceinline__ void finish(const Call& call, int64_t n, int64_t pixel, const State& state) {
    const int64_t area = call.h * call.w;
    S* const to = static_cast<S*>(call.pooled) + 2 * n * area + pixel;
    to[0] = state.sum / static_cast<S>(call.c);
    to[area] = state.top;
  }
};

template <class S>
struct GateGradient {
  using Call = AffineBackward;
  static constexpr bool backward = true;
  struct State {
    S sum, count;
  };
  static __device__ __forceinline__ State begin() { return {S(0), S(0)}; }
  static __device__ __forceinline__ void add(State& state, S y, S grad, S maximum) {
    state.sum = multiply_add(grad, y, state.sum);
    state.count += y == maximum ? S(1) : S(0);
  }
  static __device__ __forceinline__ void merge(State& state, const State& other) {
    state.sum += other.sum;
    state.count += other.count;
  }
  static __device__ __forceinline__ void finish(const Call& call, int64_t n, int64_t pixel, const State& state) {
    const int64_t at = n * call.h * call.w + pixel;
    const S gate = static_cast<const S*>(call.gate)[at];
    static_cast<S*>(call.grad_logit)[at] = gate * (S(1) - gate) * state.sum;
    static_cast<S*>(call.share)[at] = S(1) / state.count;
  }
};

template <class State, class S>
__device__ __forceinline__ State shuffled(const State& state, int mask) {
  static_assert(sizeof(State) == 2 * sizeof(S));
  S numbers[2];
  memcpy(numbers, &state, sizeof(State));
  numbers[0] = shuffle_xor(numbers[0], mask);
  numbers[1] = shuffle_xor(numbers[1], mask);
  State other;
  memcpy(&other, numbers, sizeof(State));
  return other;
}

// A thread's loads of x, and of grad in the backward pass.
template <class Pass, class T, int by>
struct AcrossHeld {
  Vector<T, by> x, grad;

  __device__ __forceinline__ void load(const typename Pass::Call& call, int64_t at) {
    x = load_vector<by>(static_cast<const T*>(call.x) + at);
    if constexpr (Pass::backward) grad = load_vector<by>(static_cast<const T*>(call.grad) + at);
  }
  __device__ __forceinline__ Sum<T> gradient(int i) const {
    if constexpr (Pass::backward) return to_sum(grad[i]);
    return Sum<T>(0);
  }
};

// pooled[1] of a pixel, where the pass asks for it.
template <class Pass, class S>
__device__ __forceinline__ S maximum_of(const typename Pass::Call& call, int64_t n, int64_t pixel) {
  if constexpr (Pass::backward) return static_cast<const S*>(call.pooled)[(2 * n + 1) * call.h * call.w + pixel];
  return S(0);
}

template <class Pass, class T, int by>
__global__ void __launch_bounds__(block_threads, 2)
    across_planes(const typename Pass::Call call, const AcrossPlan plan) {
  using S = Sum<T>;
  using State = typename Pass::State;
  constexpr int at_once = Pass::backward ? 2 : 4;  // channels; four loads
  const int items = plan.pixels / by, item = static_cast<int>(threadIdx.x) % items;
  const int lane = static_cast<int>(threadIdx.x) / items;
  const int64_t n = blockIdx.x / plan.tiles, area = call.h * call.w;
  const int64_t first = int64_t(blockIdx.x % plan.tiles) * plan.pixels, pixel = first + item * by;
  State states[by];
  S maxima[by];
#pragma unroll
  for (int i = 0; i < by; ++i) {
    states[i] = Pass::begin();
    maxima[i] = pixel < area ? maximum_of<Pass, S>(call, n, pixel + i) : S(0);
  }
  auto* const affine = shared_memory<Affine<S>>();
  for (int64_t base = 0; base < call.c; base += most_channels) {
    const int channels = static_cast<int>(smaller<int64_t>(most_channels, call.c - base));
    const int64_t plane = n * call.c + base, start = plane * area + pixel;
    const int end = pixel < area ? channels : 0, step = plan.lanes;
    AcrossHeld<Pass, T, by> held[at_once];
    const auto load = [&](int c) {
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        if (c + j * step < end) held[j].load(call, start + (c + j * step) * area);
      }
    };
    load(lane);
    if (base > 0) sync_threads();
#pragma unroll 1
    for (int c = static_cast<int>(threadIdx.x); c < channels; c += block_threads) {
      Affine<S> one[1];
      load_affine(one, call, plane + c);
      affine[c] = one[0];
    }
    sync_threads();
    for (int c = lane; c < end; c += at_once * step) {
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        if (c + j * step >= end) continue;
        const Affine<S> own = affine[c + j * step];
#pragma unroll
        for (int i = 0; i < by; ++i) Pass::add(states[i], own.y(to_sum(held[j].x[i])), held[j].gradient(i), maxima[i]);
      }
      load(c + at_once * step);
    }
  }
  auto* const all = reinterpret_cast<State*>(affine + smaller<int64_t>(most_channels, call.c));
#pragma unroll
  for (int i = 0; i < by; ++i) all[lane * plan.pixels + item * by + i] = states[i];
  sync_threads();
  for (int p = static_cast<int>(threadIdx.x); p < plan.pixels && first + p < area; p += block_threads) {
    State state = all[p];
    for (int other = 1; other < plan.lanes; ++other) Pass::merge(state, all[other * plan.pixels + p]);
    Pass::finish(call, n, first + p, state);
  }
}

template <class Pass, class T, int by>
__global__ void __launch_bounds__(block_threads) across_pixels(const typename Pass::Call call, const AcrossPlan plan) {
  using S = Sum<T>;
  using State = typename Pass::State;
  const int lane = static_cast<int>(threadIdx.x) % plan.lanes, slots = block_threads / plan.lanes;
  const int64_t n = blockIdx.x / plan.tiles, area = call.h * call.w;
  const int64_t pixel = int64_t(blockIdx.x % plan.tiles) * plan.pixels + static_cast<int>(threadIdx.x) / plan.lanes;
  State states[across_at_once];
  S maxima[across_at_once];
#pragma unroll
  for (int j = 0; j < across_at_once; ++j) {
    states[j] = Pass::begin();
    maxima[j] = pixel + j * slots < area ? maximum_of<Pass, S>(call, n, pixel + j * slots) : S(0);
  }
  for (int64_t c = int64_t(lane) * by; c < call.c; c += plan.lanes * by) {
    AcrossHeld<Pass, T, by> held[across_at_once];
#pragma unroll
    for (int j = 0; j < across_at_once; ++j) {
      if (pixel + j * slots < area) held[j].load(call, (n * area + pixel + j * slots) * call.c + c);
    }
    Affine<S> affine[by];
    load_affine(affine, call, n * call.c + c);
#pragma unroll
    for (int j = 0; j < across_at_once; ++j) {
      if (pixel + j * slots >= area) continue;
#pragma unroll
      for (int i = 0; i < by; ++i) {
        Pass::add(states[j], affine[i].y(to_sum(held[j].x[i])), held[j].gradient(i), maxima[j]);
      }
    }
  }
  for (int mask = plan.lanes / 2; mask > 0; mask /= 2) {
#pragma unroll
    for (int j = 0; j < across_at_once; ++j) Pass::merge(states[j], shuffled<State, S>(states[j], mask));
  }
  if (lane != 0) return;
#pragma unroll
  for (int j = 0; j < across_at_once; ++j) {
    if (pixel + j * slots < area) Pass::finish(call, n, pixel + j * slots, states[j]);
  }
}

template <class T, class Call>
AcrossPlan across_plan(const Call& call, bool aligned, size_t state) {
  AcrossPlan plan{};
  const int64_t area = call.h * call.w;
  plan.vectors = aligned && (call.channels_last ? call.c : area) % vector_of<T> == 0 && channels_at_16(call);
  const int by = plan.vectors ? vector_of<T> : 1;
  plan.lanes = 1;
  if (call.channels_last) {
    while (plan.lanes < 32 && 2 * plan.lanes < ceil_div<int64_t>(call.c, by)) plan.lanes *= 2;
    plan.pixels = block_threads / plan.lanes * across_at_once;
  } else {
    while (plan.lanes < 8 && 2 * plan.lanes <= call.c) plan.lanes *= 2;
    plan.pixels = block_threads / plan.lanes * by;
    plan.shared_bytes = state * static_cast<size_t>(plan.lanes * plan.pixels) +
                        sizeof(Affine<Sum<T>>) * static_cast<size_t>(smaller<int64_t>(most_channels, call.c));
  }
  plan.tiles = blocks_or_none(static_cast<double>(ceil_div<int64_t>(area, plan.pixels)));
  plan.blocks = blocks_or_none(static_cast<double>(call.n) * plan.tiles);
  return plan;
}

template <template <class> class Pass, class T>
int across_launch(const typename Pass<Sum<T>>::Call& call, bool aligned, void* stream) {
  using This = Pass<Sum<T>>;
  const AcrossPlan plan = across_plan<T>(call, aligned, sizeof(typename This::State));
  if (plan.blocks == 0) return invalid_configuration;
  const auto start = [&](auto kernel) {
    return LIGHTSR_LAUNCH(kernel, plan.blocks, block_threads, plan.shared_bytes, stream, call, plan);
  };
  if (call.channels_last) {
    return plan.vectors ? start(across_pixels<This, T, vector_of<T>>) : start(across_pixels<This, T, 1>);
  }
  return plan.vectors ? start(across_planes<This, T, vector_of<T>>) : start(across_planes<This, T, 1>);
}

template <class T>
int channel_pool_launch(const ChannelPool& call, void* stream) {
  return across_launch<Pool, T>(call, at_16(call.x), stream);
}

template <class T>
int gate_gradient_launch(const AffineBackward& call, void* stream) {
  return across_launch<GateGradient, T>(call, at_16(call.x) && at_16(call.grad), stream);
}

}  // namespace lightsr::norm
