// out = y sigmoid(conv(pooled)) + x, the gate made on the way.
//
// Floor: x read and out written once, pooled read and the gate written, 12 bytes a pixel beside 512 at C = 64 in
// float32: bound by memory, 6 us for (1, 64, 180, 320) in float32 on an H200. A gate in a launch of its own would cost
// that launch.
//
// Plan: every_number.cuh, tiles of 4 x 32 pixels or more with a gate (gate_map.cuh), lines of pixels without one.
#pragma once

#include "gate_map.cuh"

namespace lightsr::norm {

template <class T>
struct GatedAffinePass {
  using S = Sum<T>;
  const GatedAffine& call;
  void* out;
  const EveryPlan& plan;
  const GatePlan& gate;
  const EveryPlace& place;
  S* gates;

  template <int by>
  struct Held {
    Vector<T, by> x;
    __device__ __forceinline__ void load(const GatedAffine& call, int64_t at) {
      x = load_vector<by>(static_cast<const T*>(call.x) + at);
    }
  };
  using Channel = Affine<S>;
  template <int many>
  static __device__ __forceinline__ void load_channels(Channel (&to)[many], const GatedAffine& call, int64_t plane) {
    load_affine(to, call, plane);
  }

  __device__ __forceinline__ void prepare() const {
    if (call.pooled != nullptr) {
      gate_map<T>(gates, call, plan, gate, place, place.channel == 0);
    } else {
      sync_threads();
    }
  }
  __device__ __forceinline__ S pixel(int p) const { return call.pooled != nullptr ? gates[p] : S(1); }
  template <int by>
  __device__ __forceinline__ S result(const Held<by>& held, int i, const Channel& channel, S gate) const {
    const S x = to_sum(held.x[i]);
    return multiply_add(channel.y(x), gate, call.residual ? x : S(0));
  }
};

template <class T, int by, bool last>
__global__ void __launch_bounds__(block_threads, 2)
    gated_affine(const GatedAffine call, const EveryPlan plan, const GatePlan gate) {
  const EveryPlace place(plan);
  auto* const gates = reinterpret_cast<Sum<T>*>(shared_memory<char>() + plan.shared_bytes);
  const GatedAffinePass<T> pass{call, call.out, plan, gate, place, gates};
  every_number<T, by, last>(plan, place, pass);
}

template <class T>
int gated_affine_launch(const GatedAffine& call, void* stream) {
  constexpr int by = vector_of<T>;
  const bool aligned = at_16(call.x) && at_16(call.out), gated = call.pooled != nullptr;
  const int64_t h = gated ? call.h : 1, w = gated ? call.w : call.h * call.w;
  const EveryPlan plan = every_plan<T, Affine<Sum<T>>>(call, aligned, h, w, gated);
  if (plan.blocks == 0) return invalid_configuration;
  const GatePlan gate = gated ? gate_plan<Sum<T>>(plan, call.k) : GatePlan{};
  const auto start = [&](auto kernel) {
    return LIGHTSR_LAUNCH(kernel, plan.blocks, block_threads, plan.shared_bytes + gate.shared_bytes, stream, call, plan,
                          gate);
  };
  if (call.channels_last) return plan.vectors ? start(gated_affine<T, by, true>) : start(gated_affine<T, 1, true>);
  return plan.vectors ? start(gated_affine<T, by, false>) : start(gated_affine<T, 1, false>);
}

}  // namespace lightsr::norm
