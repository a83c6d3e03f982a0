// distillation_fusion's CUDA launchers by name: the arguments are those of arguments.h, in its order, of the parts one
// after another.
#include "../../csrc/distillation_fusion/arguments.h"
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

DistillationFusion inputs(Call& call) {
  DistillationFusion it{};
  it.type = static_cast<Type>(call.integer());
  const int64_t size = it.type == Type::float64 ? 8 : it.type == Type::float32 ? 4 : 2;
  it.channels_last = call.integer() != 0;
  it.n = call.integer(), it.pixels = call.integer();
  it.out_channels = call.integer();
  it.parts = static_cast<int>(call.integer());
  for (int i = 0; i < it.parts; ++i) {
    it.channels[i] = call.integer();
    it.in += it.channels[i];
    it.part[i] = slice(call, size);
    it.map[i] = call.tensor();
  }
  it.weight = call.tensor(), it.bias = call.tensor();
  it.scale = call.tensor(), it.gain = call.tensor();
  it.residual = slice(call, size);
  it.residual_gain = call.tensor();
  return it;
}

Entry forward{"distillation_fusion", [](Call& call) {
                DistillationFusion it = inputs(call);
                it.out = call.tensor();
                return distillation_fusion_forward_cuda(it, nullptr);
              }};

Entry backward{"distillation_fusion_backward", [](Call& call) {
                 DistillationFusionBackward it{};
                 it.call = inputs(call);
                 it.grad = call.tensor();
                 for (int i = 0; i < it.call.parts; ++i) {
                   it.grad_part[i] = call.tensor(), it.grad_map[i] = call.tensor();
                 }
                 it.grad_residual = call.tensor();
                 it.each_picture = call.integer() != 0;
                 it.products = static_cast<double*>(call.tensor()), it.sums = static_cast<double*>(call.tensor());
                 it.residual_product = static_cast<double*>(call.tensor());
                 it.workspace = call.scratch(distillation_fusion_backward_workspace(it));
                 return distillation_fusion_backward_cuda(it, nullptr);
               }};

}  // namespace
}  // namespace lightsr
