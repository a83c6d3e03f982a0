// The launchers of split_distillation: on tensor or CUDA cores from shared memory, or plainly, and slower, where that
// has no room for the call: forward beyond 224 channels with a square weight in 16 bits, 176 in float32. The plain way
// ends at some ten thousand channels, with cudaErrorInvalidConfiguration.
#include "arguments.h"
#include "backward.cuh"
#include "forward.cuh"

namespace lightsr {
namespace {

using namespace distillation;

constexpr int invalid_configuration = 9;  // cudaErrorInvalidConfiguration

template <class T, class Units>
int forward_by(const SplitDistillation& call, const SplitPlan& plan, void* stream) {
  if (call.channels_last) {
    return LIGHTSR_LAUNCH((split_forward<T, true, Units>), plan.blocks, threads, plan.shared_bytes, stream, call, plan);
  }
  return LIGHTSR_LAUNCH((split_forward<T, false, Units>), plan.blocks, threads, plan.shared_bytes, stream, call, plan);
}

template <class T>
int forward(const SplitDistillation& call, void* stream) {
  const SplitPlan plan = forward_plan<T, Product<T>>(call);
  if (plan.blocks != 0) return forward_by<T, Product<T>>(call, plan, stream);
  const SplitPlan plain = forward_plan<T, PlainProduct<T>>(call);
  return plain.blocks != 0 ? forward_by<T, PlainProduct<T>>(call, plain, stream) : invalid_configuration;
}

template <class T, class Units>
int backward_by(const SplitDistillationBackward& call, const SplitPlan& plan, void* stream) {
  const int error = call.call.channels_last ? LIGHTSR_LAUNCH((split_backward<T, true, Units>), plan.blocks, threads,
                                                             plan.shared_bytes, stream, call, plan)
                                            : LIGHTSR_LAUNCH((split_backward<T, false, Units>), plan.blocks, threads,
                                                             plan.shared_bytes, stream, call, plan);
  if (error != 0 || plan.part_size == 0) return error;
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(plan.part_size, 32));
  return LIGHTSR_LAUNCH(split_sums<T>, blocks, threads, threads * sizeof(double), stream, call, plan, plan.blocks);
}

// The bytes of workspace where `launch` is false; else launches and gives 0 or the number of an error.
template <class T>
int64_t backward(const SplitDistillationBackward& call, bool launch, void* stream) {
  const SplitPlan fast = backward_plan<T, Product<T>>(call);
  const SplitPlan plan = fast.blocks != 0 ? fast : backward_plan<T, PlainProduct<T>>(call);
  if (!launch) return plan.blocks * plan.part_size * int64_t(sizeof(Sum<T>));
  if (plan.blocks == 0) return invalid_configuration;
  return fast.blocks != 0 ? backward_by<T, Product<T>>(call, plan, stream)
                          : backward_by<T, PlainProduct<T>>(call, plan, stream);
}

int64_t backward_call(const SplitDistillationBackward& call, bool launch, void* stream) {
  return by_type(call.call.type, [&]<class T>() { return backward<T>(call, launch, stream); });
}

}  // namespace

int split_distillation_forward_cuda(const SplitDistillation& call, void* stream) {
  return by_type(call.type, [&]<class T>() { return forward<T>(call, stream); });
}

int64_t split_distillation_backward_workspace(const SplitDistillationBackward& call) {
  return backward_call(call, false, nullptr);
}

int split_distillation_backward_cuda(const SplitDistillationBackward& call, void* stream) {
  return static_cast<int>(backward_call(call, true, stream));
}

}  // namespace lightsr
