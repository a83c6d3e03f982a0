// The launchers of the passes of instance_norm_attention, by type.
//
//   moments.cuh          two launches: parts of planes, then planes      reads x
//   factors.cuh          one block a picture
//   across_channels.cuh  channel_pool, gate_gradient                     reads x; x and grad
//   gated_affine.cuh     with the gate of gate_map.cuh                   reads x, writes out
//   affine_sums.cuh      two launches, as moments                        reads x and grad
//   affine_gradient.cuh                                                  reads x and grad, writes grad_x
//
// Forward is five launches and moves 4 times the bytes of x, and per pixel 4 maps of 4 bytes: 1.02 times that floor at
// C = 64 in float32, 1.04 for 16-bit types; slots of the workspace add 1 % at most, in channels_last.
#include "across_channels.cuh"
#include "affine_gradient.cuh"
#include "affine_sums.cuh"
#include "arguments.h"
#include "factors.cuh"
#include "gated_affine.cuh"
#include "moments.cuh"

namespace lightsr {

int64_t moments_workspace(const Moments& given) {
  const Moments call = norm::in_one_layout(given);
  return by_type(call.type, [&]<class T>() { return norm::moments_plan<T>(call).workspace; });
}

int64_t affine_sums_workspace(const AffineBackward& given) {
  const AffineBackward call = norm::in_one_layout(given);
  return by_type(call.type, [&]<class T>() { return norm::affine_sums_plan<T>(call).workspace; });
}

int moments_cuda(const Moments& given, void* stream) {
  const Moments call = norm::in_one_layout(given);
  return by_type(call.type, [&]<class T>() { return norm::moments_launch<T>(call, stream); });
}

int factors_cuda(const Factors& call, void* stream) {
  return by_type(call.type, [&]<class T>() { return norm::factors_launch<T>(call, stream); });
}

int channel_pool_cuda(const ChannelPool& given, void* stream) {
  const ChannelPool call = norm::in_one_layout(given);
  return by_type(call.type, [&]<class T>() { return norm::channel_pool_launch<T>(call, stream); });
}

int gated_affine_cuda(const GatedAffine& given, void* stream) {
  const GatedAffine call = norm::in_one_layout(given);
  return by_type(call.type, [&]<class T>() { return norm::gated_affine_launch<T>(call, stream); });
}

int gate_gradient_cuda(const AffineBackward& given, void* stream) {
  const AffineBackward call = norm::in_one_layout(given);
  return by_type(call.type, [&]<class T>() { return norm::gate_gradient_launch<T>(call, stream); });
}

int affine_sums_cuda(const AffineBackward& given, void* stream) {
  const AffineBackward call = norm::in_one_layout(given);
  return by_type(call.type, [&]<class T>() { return norm::affine_sums_launch<T>(call, stream); });
}

int affine_gradient_cuda(const AffineBackward& given, void* stream) {
  const AffineBackward call = norm::in_one_layout(given);
  return by_type(call.type, [&]<class T>() { return norm::affine_gradient_launch<T>(call, stream); });
}

}  // namespace lightsr
