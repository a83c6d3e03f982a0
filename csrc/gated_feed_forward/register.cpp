// The compiled kernel of gated_feed_forward as a raw operator of torch; its schema stands in native.py.
#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

void forward(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor in_weight, Tensor depthwise_weight,
             Tensor out_weight, double eps, Tensor out) {
  bool last = layout_of(x);
  int64_t c = x.size(1), hidden = in_weight.size(0) / 2;
  STD_TORCH_CHECK(hidden > 0, "gated_feed_forward: in_weight must have two filters or more");
  GatedFeedForward call{.type = type_of(x),
                        .channels_last = last,
                        .n = x.size(0),
                        .c = c,
                        .h = x.size(2),
                        .w = x.size(3),
                        .hidden = hidden,
                        .eps = eps,
                        .x = x.const_data_ptr(),
                        .norm_weight = parameter(norm_weight, x, c, "norm_weight"),
                        .norm_bias = parameter(norm_bias, x, c, "norm_bias"),
                        .in_weight = parameter(in_weight, x, 2 * hidden * c, "in_weight"),
                        .depthwise_weight = parameter(depthwise_weight, x, 2 * hidden * 9, "depthwise_weight"),
                        .out_weight = parameter(out_weight, x, c * hidden, "out_weight"),
                        .out = dense_picture(out, x, c, last, "out")};
  if (x.numel() != 0) gated_feed_forward_cpu(call);
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("gated_feed_forward_forward", TORCH_BOX(&lightsr::forward));
}
