// The launchers of distillation_fusion.
#include "arguments.h"
#include "backward_pictures.cuh"
#include "backward_products.cuh"
#include "forward.cuh"

namespace lightsr {
namespace {

template <class T>
int forward_of(const DistillationFusion& call, void* stream) {
  return call.channels_last ? fusion::forward<T, true>(call, stream) : fusion::forward<T, false>(call, stream);
}

template <class T, bool last>
int backward_in(const DistillationFusionBackward& call, void* stream) {
  const int error = fusion::backward_pictures<T, last>(call, stream);
  return error != 0 ? error : fusion::backward_products<T, last>(call, stream);
}

template <class T>
int backward_of(const DistillationFusionBackward& call, void* stream) {
  return call.call.channels_last ? backward_in<T, true>(call, stream) : backward_in<T, false>(call, stream);
}

}  // namespace

int distillation_fusion_forward_cuda(const DistillationFusion& call, void* stream) {
  return by_type(call.type, [&]<class T>() { return forward_of<T>(call, stream); });
}

int64_t distillation_fusion_backward_workspace(const DistillationFusionBackward& call) {
  return by_type(call.call.type, [&]<class T>() { return fusion::backward_workspace<T>(call); });
}

int distillation_fusion_backward_cuda(const DistillationFusionBackward& call, void* stream) {
  return by_type(call.call.type, [&]<class T>() { return backward_of<T>(call, stream); });
}

}  // namespace lightsr
