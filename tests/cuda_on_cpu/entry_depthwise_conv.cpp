// The launchers of csrc/depthwise_conv/cuda.cu, by name.
#include "../../csrc/depthwise_conv/direct.cuh"
#include "calls.h"

namespace lightsr {
namespace {

using on_cpu::Call;
using on_cpu::Entry;

Entry forward{"depthwise_conv_forward", [](Call& call) {
                DepthwiseConv it{};
                it.type = static_cast<Type>(call.integer());
                it.channels_last = call.integer() != 0;
                it.flip = call.integer() != 0;
                it.n = call.integer(), it.c = call.integer(), it.h = call.integer(), it.w = call.integer();
                it.kh = static_cast<int>(call.integer()), it.kw = static_cast<int>(call.integer());
                it.dh = call.integer(), it.dw = call.integer();
                it.activation = static_cast<Activation>(call.integer());
                it.negative_slope = call.real();
                it.x = call.tensor(), it.weight = call.tensor(), it.bias = call.tensor();
                it.gate = call.tensor(), it.residual = call.tensor();
                it.out = call.tensor();
                return depthwise_conv_forward_cuda(it, nullptr);
              }};

Entry backward_weight{"depthwise_conv_backward_weight", [](Call& call) {
                        DepthwiseConvWeight it{};
                        it.type = static_cast<Type>(call.integer());
                        it.channels_last = call.integer() != 0;
                        it.n = call.integer(), it.c = call.integer(), it.h = call.integer(), it.w = call.integer();
                        it.kh = static_cast<int>(call.integer()), it.kw = static_cast<int>(call.integer());
                        it.dh = call.integer(), it.dw = call.integer();
                        it.x = call.tensor(), it.grad = call.tensor();
                        it.grad_weight = call.tensor(), it.grad_bias = call.tensor();
                        it.workspace = call.scratch(depthwise_conv_backward_weight_workspace(it));
                        return depthwise_conv_backward_weight_cuda(it, nullptr);
                      }};

// Pictures that need not be there: layout, n, c, h, w, dh, dw of a call.
DepthwiseConv sizes(Call& call) {
  DepthwiseConv it{};
  it.channels_last = call.integer() != 0;
  it.n = call.integer(), it.c = call.integer(), it.h = call.integer(), it.w = call.integer();
  it.dh = call.integer(), it.dw = call.integer();
  it.kh = it.kw = 7;
  return direct_layout(it);
}

Entry plan{"depthwise_conv_plan", [](Call& call) {
             const DirectPlan plan = direct_plan<float>(sizes(call));
             auto* out = static_cast<int64_t*>(call.tensor());
             out[0] = plan.slot_blocks, out[1] = plan.slots, out[2] = plan.blocks;
             out[3] = static_cast<int64_t>(plan.shared_bytes);
             return 0;
           }};

// Of a block, a slot and the pixel (v, u) of its first column phase: channel, row phase, is it inside, where.
Entry place{"depthwise_conv_place", [](Call& call) {
              const DepthwiseConv it = sizes(call);
              const DirectPlan plan = direct_plan<float>(it);
              const auto block = static_cast<unsigned>(call.integer());
              const DirectPlane plane = direct_plane(it, plan, block, static_cast<int>(call.integer()));
              const int64_t v = call.integer(), u = call.integer();
              const Reach reach(plan.lattice, {v, u, plane.row_phase, 0});
              auto* out = static_cast<int64_t*>(call.tensor());
              out[0] = plane.channel, out[1] = plane.row_phase;
              out[2] = reach.inside(0, 0, 0), out[3] = plane.offset + reach.place(0, 0, 0);
              return 0;
            }};

}  // namespace
}  // namespace lightsr
