// large_kernel_attention's CUDA launcher by name: the arguments are those of arguments.h, in its order.
#include "../../csrc/large_kernel_attention/arguments.h"
#include "calls.h"

namespace lightsr {
namespace {

using on_cpu::Call;
using on_cpu::Entry;

Entry entry_forward{"large_kernel_attention", [](Call& call) {
                      LargeKernelAttention to{};
                      to.type = static_cast<Type>(call.integer());
                      to.channels_last = call.integer() != 0;
                      to.n = call.integer(), to.c = call.integer(), to.h = call.integer(), to.w = call.integer();
                      to.kh1 = static_cast<int>(call.integer()), to.kw1 = static_cast<int>(call.integer());
                      to.kh2 = static_cast<int>(call.integer()), to.kw2 = static_cast<int>(call.integer());
                      to.dilation = call.integer();
                      to.x = call.tensor();
                      to.weight1 = call.tensor(), to.bias1 = call.tensor();
                      to.weight2 = call.tensor(), to.bias2 = call.tensor();
                      to.mix_weight = call.tensor(), to.mix_bias = call.tensor();
                      to.out_weight = call.tensor(), to.out_bias = call.tensor();
                      to.residual = call.tensor();
                      to.out = call.tensor();
                      to.workspace = call.scratch(large_kernel_attention_workspace(to));
                      return large_kernel_attention_forward_cuda(to, nullptr);
                    }};

}  // namespace
}  // namespace lightsr
