// depthwise_conv's tensor core kernels by name: the arguments are those of arguments.h, in its order.
#include "../../csrc/depthwise_conv/banded.cuh"
#include "../../csrc/depthwise_conv/weight_banded.cuh"
#include "calls.h"

namespace lightsr {
namespace {

using on_cpu::Call;
using on_cpu::Entry;

template <class Arguments>
void read_sizes(Call& call, Arguments& to) {
  to.n = call.integer(), to.c = call.integer(), to.h = call.integer(), to.w = call.integer();
  to.kh = static_cast<int>(call.integer()), to.kw = static_cast<int>(call.integer());
  to.dh = call.integer(), to.dw = call.integer();
}

// The last argument is the number of channels of images that one launch takes.
Entry forward{"banded_forward", [](Call& call) {
                DepthwiseConv to{};
                to.type = static_cast<Type>(call.integer());
                to.channels_last = call.integer() != 0;
                to.flip = call.integer() != 0;
                read_sizes(call, to);
                to.activation = static_cast<Activation>(call.integer());
                to.negative_slope = call.real();
                to.x = call.tensor(), to.weight = call.tensor(), to.bias = call.tensor();
                to.gate = call.tensor(), to.residual = call.tensor(), to.out = call.tensor();
                return banded_forward(to, nullptr, call.integer());
              }};

Entry weight{"weight_banded", [](Call& call) {
               DepthwiseConvWeight to{};
               to.type = static_cast<Type>(call.integer());
               to.channels_last = call.integer() != 0;
               read_sizes(call, to);
               to.x = call.tensor(), to.grad = call.tensor();
               to.grad_weight = call.tensor(), to.grad_bias = call.tensor();
               to.workspace = call.scratch(weight_banded_workspace(to));
               return weight_banded(to, nullptr);
             }};

// Are calls of this type and these sizes taken, forward and for the filter's gradient?
Entry takes{"banded_takes", [](Call& call) {
              DepthwiseConv to{};
              DepthwiseConvWeight back{};
              to.type = back.type = static_cast<Type>(call.integer());
              read_sizes(call, to);
              back.n = to.n, back.c = to.c, back.h = to.h, back.w = to.w;
              back.kh = to.kh, back.kw = to.kw, back.dh = to.dh, back.dw = to.dw;
              auto* out = static_cast<int64_t*>(call.tensor());
              out[0] = banded_takes(to);
              out[1] = weight_banded_takes(back);
              return 0;
            }};

// Where a block's planes begin in a tensor that need not be there, and the place of its last number.
Entry place{"banded_place", [](Call& call) {
              DepthwiseConv to{};
              to.channels_last = call.integer() != 0;
              read_sizes(call, to);
              const BandPicture picture = band_picture(to, static_cast<int>(call.integer()));
              const int64_t image = call.integer();
              const int group = static_cast<int>(call.integer()), phase = static_cast<int>(call.integer());
              auto* out = static_cast<int64_t*>(call.tensor());
              const BandPlanes planes = picture.planes(image, group, phase, out[0]);
              out[1] = out[0] + planes.offset(0, planes.rows - 1, planes.columns - 1);
              return 0;
            }};

}  // namespace
}  // namespace lightsr
