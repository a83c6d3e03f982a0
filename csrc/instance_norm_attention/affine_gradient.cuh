// grad_x = dy scale + constant + slope (x - centre), + grad where there is a residual.
//
// Floor: grad and x read, grad_x written: bound by memory, 9 us for (1, 64, 180, 320) in float32 on an H200; the five
// maps of 4 bytes a pixel are 20 beside 768 bytes at C = 64.
//
// Plan: every_number.cuh over lines of pixels; what turns grad of a pixel into dy lies in shared memory.
#pragma once

#include "every_number.cuh"

namespace lightsr::norm {

template <class S>
struct GradientChannel : Affine<S> {
  S constant, slope;
};

template <class T>
struct AffineGradientPass {
  using S = Sum<T>;
  const AffineBackward& call;
  void* out;
  const EveryPlan& plan;
  const EveryPlace& place;
  PixelGradient<S>* pixels;

  template <int by>
  struct Held {
    Vector<T, by> x, grad;
    __device__ __forceinline__ void load(const AffineBackward& call, int64_t at) {
      x = load_vector<by>(static_cast<const T*>(call.x) + at);
      grad = load_vector<by>(static_cast<const T*>(call.grad) + at);
    }
  };
  using Channel = GradientChannel<S>;
  template <int many>
  static __device__ __forceinline__ void load_channels(Channel (&to)[many], const AffineBackward& call, int64_t plane) {
    load_affine(to, call, plane);
    S constant[many], slope[many];
    load_wide(constant, call.constant, plane, S(0));
    load_wide(slope, call.slope, plane, S(0));
#pragma unroll
    for (int i = 0; i < many; ++i) to[i].constant = constant[i], to[i].slope = slope[i];
  }

  __device__ __forceinline__ void prepare() const {
    for (int p = static_cast<int>(threadIdx.x); call.gate != nullptr && p < plan.pixels; p += block_threads) {
      const int64_t pixel = place.pixel(plan, p);
      if (pixel >= 0) pixels[p] = pixel_gradient<S>(call, place.n, pixel);
    }
    sync_threads();
  }
  __device__ __forceinline__ PixelGradient<S> pixel(int p) const {
    return call.gate != nullptr ? pixels[p] : no_gate<S>();
  }
  template <int by>
  __device__ __forceinline__ S result(const Held<by>& held, int i, const Channel& channel,
                                      const PixelGradient<S>& pixel) const {
    const S x = to_sum(held.x[i]), grad = to_sum(held.grad[i]);
    S sum = channel.constant;
    if (call.slope) sum = multiply_add(channel.slope, channel.offset(x), sum);  // 0 times infinity would be NaN
    return multiply_add(pixel(grad, channel.y(x)), channel.scale, call.residual ? sum + grad : sum);
  }
};

template <class T, int by, bool last>
__global__ void __launch_bounds__(block_threads) affine_gradient(const AffineBackward call, const EveryPlan plan) {
  const EveryPlace place(plan);
  auto* const pixels = reinterpret_cast<PixelGradient<Sum<T>>*>(shared_memory<char>() + plan.shared_bytes);
  const AffineGradientPass<T> pass{call, call.grad_x, plan, place, pixels};
  every_number<T, by, last>(plan, place, pass);
}

template <class T>
int affine_gradient_launch(const AffineBackward& call, void* stream) {
  constexpr int by = vector_of<T>;
  const bool aligned = at_16(call.x) && at_16(call.grad) && at_16(call.grad_x) &&
                       (!call.channels_last || (at_16(call.constant) && at_16(call.slope)));
  const EveryPlan plan = every_plan<T, GradientChannel<Sum<T>>>(call, aligned, 1, call.h * call.w, false);
  if (plan.blocks == 0) return invalid_configuration;
  const size_t bytes =
      call.gate != nullptr ? static_cast<size_t>(plan.pixels) * sizeof(PixelGradient<Sum<T>>) : size_t{0};
  const auto start = [&](auto kernel) {
    return LIGHTSR_LAUNCH(kernel, plan.blocks, block_threads, plan.shared_bytes + bytes, stream, call, plan);
  };
  if (call.channels_last) {
    return plan.vectors ? start(affine_gradient<T, by, true>) : start(affine_gradient<T, 1, true>);
  }
  return plan.vectors ? start(affine_gradient<T, by, false>) : start(affine_gradient<T, 1, false>);
}

}  // namespace lightsr::norm
