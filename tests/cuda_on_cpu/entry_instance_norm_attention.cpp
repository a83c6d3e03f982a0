// The passes of instance_norm_attention by name: the arguments are those of arguments.h, in its order.
#include "../../csrc/instance_norm_attention/arguments.h"
#include "calls.h"

namespace lightsr {
namespace {

using on_cpu::Call;
using on_cpu::Entry;

template <class Arguments>
void read_picture(Call& call, Arguments& to) {
  to.type = static_cast<Type>(call.integer());
  to.channels_last = call.integer() != 0;
  to.n = call.integer(), to.c = call.integer(), to.h = call.integer(), to.w = call.integer();
}

template <class Arguments>
void read_affine(Call& call, Arguments& to) {
  to.centre = call.tensor(), to.scale = call.tensor(), to.shift = call.tensor();
}

Entry moments{"moments", [](Call& call) {
                Moments to{};
                read_picture(call, to);
                to.x = call.tensor();
                to.mean = static_cast<double*>(call.tensor()), to.variance = static_cast<double*>(call.tensor());
                to.workspace = call.scratch(moments_workspace(to));
                return moments_cuda(to, nullptr);
              }};

Entry factors{"factors", [](Call& call) {
                Factors to{};
                to.type = static_cast<Type>(call.integer());
                to.n = call.integer(), to.c = call.integer(), to.hidden = call.integer();
                to.norm = call.integer() != 0;
                to.statistic = static_cast<Statistic>(call.integer());
                to.eps = call.real();
                to.mean = static_cast<const double*>(call.tensor());
                to.variance = static_cast<const double*>(call.tensor());
                to.norm_weight = call.tensor(), to.norm_bias = call.tensor();
                to.down_weight = call.tensor(), to.down_bias = call.tensor();
                to.up_weight = call.tensor(), to.up_bias = call.tensor();
                to.centre = call.tensor(), to.scale = call.tensor(), to.shift = call.tensor();
                return factors_cuda(to, nullptr);
              }};

Entry channel_pool{"channel_pool", [](Call& call) {
                     ChannelPool to{};
                     read_picture(call, to);
                     to.x = call.tensor();
                     read_affine(call, to);
                     to.pooled = call.tensor();
                     return channel_pool_cuda(to, nullptr);
                   }};

Entry gated_affine{"gated_affine", [](Call& call) {
                     GatedAffine to{};
                     read_picture(call, to);
                     to.x = call.tensor();
                     read_affine(call, to);
                     to.pooled = call.tensor(), to.spatial_weight = call.tensor();
                     to.k = static_cast<int>(call.integer());
                     to.gate = call.tensor();
                     to.residual = call.integer() != 0;
                     to.out = call.tensor();
                     return gated_affine_cuda(to, nullptr);
                   }};

AffineBackward read_backward(Call& call) {
  AffineBackward to{};
  read_picture(call, to);
  to.grad = call.tensor(), to.x = call.tensor();
  read_affine(call, to);
  to.gate = call.tensor(), to.pooled = call.tensor(), to.grad_pooled = call.tensor();
  return to;
}

Entry gate_gradient{"gate_gradient", [](Call& call) {
                      AffineBackward to = read_backward(call);
                      to.grad_logit = call.tensor(), to.share = call.tensor();
                      return gate_gradient_cuda(to, nullptr);
                    }};

Entry affine_sums{"affine_sums", [](Call& call) {
                    AffineBackward to = read_backward(call);
                    to.share = call.tensor();
                    to.sums = static_cast<double*>(call.tensor());
                    to.workspace = call.scratch(affine_sums_workspace(to));
                    return affine_sums_cuda(to, nullptr);
                  }};

Entry affine_gradient{"affine_gradient", [](Call& call) {
                        AffineBackward to = read_backward(call);
                        to.share = call.tensor();
                        to.residual = call.integer() != 0;
                        to.constant = call.tensor(), to.slope = call.tensor();
                        to.grad_x = call.tensor();
                        return affine_gradient_cuda(to, nullptr);
                      }};

}  // namespace
}  // namespace lightsr
