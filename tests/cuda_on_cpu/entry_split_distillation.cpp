// split_distillation's CUDA launchers by name: the arguments are those of arguments.h, in its order.
#include "../../csrc/split_distillation/arguments.h"
#include "calls.h"

namespace lightsr {
namespace {

using on_cpu::Call;
using on_cpu::Entry;

// Data of the whole picture that holds it, the first number's place in bytes, picture and step.
Slice slice(Call& call, int64_t size) {
  const auto* data = static_cast<const char*>(call.tensor());
  const int64_t first = call.integer() * size, picture = call.integer(), step = call.integer();
  return {data != nullptr ? data + first : nullptr, picture, step};
}

SplitDistillation inputs(Call& call) {
  SplitDistillation it{};
  it.type = static_cast<Type>(call.integer());
  const int64_t size = it.type == Type::float64 ? 8 : it.type == Type::float32 ? 4 : 2;
  it.channels_last = call.integer() != 0;
  it.n = call.integer(), it.c = call.integer(), it.pixels = call.integer();
  it.split = call.integer();
  it.whole = call.integer() != 0;
  it.distilled = call.integer();
  it.activation = static_cast<Activation>(call.integer());
  it.distilled_activation = static_cast<Activation>(call.integer());
  it.negative_slope = call.real();
  it.x = slice(call, size), it.residual = slice(call, size);
  it.bias = call.tensor();
  it.weight = call.tensor(), it.weight_bias = call.tensor();
  it.gate_weight = call.tensor(), it.gate_bias = call.tensor();
  return it;
}

Entry forward{"split_distillation", [](Call& call) {
                SplitDistillation it = inputs(call);
                it.distilled_out = call.tensor(), it.remaining = call.tensor();
                return split_distillation_forward_cuda(it, nullptr);
              }};

Entry backward{"split_distillation_backward", [](Call& call) {
                 SplitDistillationBackward it{};
                 it.call = inputs(call);
                 it.grad_distilled = call.tensor(), it.grad_remaining = call.tensor();
                 it.grad_x = call.tensor(), it.grad_residual = call.tensor(), it.grad_bias = call.tensor();
                 it.grad_weight = call.tensor(), it.grad_weight_bias = call.tensor();
                 it.grad_gate_weight = call.tensor(), it.grad_gate_bias = call.tensor();
                 it.workspace = call.scratch(split_distillation_backward_workspace(it));
                 return split_distillation_backward_cuda(it, nullptr);
               }};

}  // namespace
}  // namespace lightsr
