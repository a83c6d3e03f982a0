// The compiled kernels of gated_feed_forward as raw operators of torch; their schemas stand in native.py.
#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

GatedFeedForward call_of(const Tensor& x, const Tensor& norm_weight, const Tensor& norm_bias, const Tensor& in_weight,
                         const Tensor& depthwise_weight, const Tensor& out_weight, double eps) {
  const bool last = layout_of(x);
  const int64_t c = x.size(1), hidden = in_weight.size(0) / 2;
  STD_TORCH_CHECK(hidden > 0, "gated_feed_forward: in_weight must have two filters or more");
  return {.type = type_of(x),
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
          .out = nullptr};
}

void forward(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor in_weight, Tensor depthwise_weight,
             Tensor out_weight, double eps, Tensor out) {
  GatedFeedForward call = call_of(x, norm_weight, norm_bias, in_weight, depthwise_weight, out_weight, eps);
  call.out = dense_picture(out, x, call.c, call.channels_last, "out");
  if (x.numel() != 0) gated_feed_forward_cpu(call);
}

void backward(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor in_weight, Tensor depthwise_weight,
              Tensor out_weight, double eps, Tensor grad, MaybeTensor grad_x, MaybeTensor grad_norm_weight,
              MaybeTensor grad_norm_bias, MaybeTensor grad_in_weight, MaybeTensor grad_depthwise_weight,
              MaybeTensor grad_out_weight) {
  const GatedFeedForward call = call_of(x, norm_weight, norm_bias, in_weight, depthwise_weight, out_weight, eps);
  const int64_t c = call.c, hidden = call.hidden;
  gated_feed_forward_backward_cpu(
      {.call = call,
       .grad = dense_picture(grad, x, c, call.channels_last, "grad"),
       .grad_x = dense_picture(grad_x, x, c, call.channels_last, "grad_x"),
       .grad_norm_weight = result(grad_norm_weight, x, c, "grad_norm_weight"),
       .grad_norm_bias = result(grad_norm_bias, x, c, "grad_norm_bias"),
       .grad_in_weight = result(grad_in_weight, x, 2 * hidden * c, "grad_in_weight"),
       .grad_depthwise_weight = result(grad_depthwise_weight, x, 2 * hidden * 9, "grad_depthwise_weight"),
       .grad_out_weight = result(grad_out_weight, x, c * hidden, "grad_out_weight")});
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("gated_feed_forward_forward", TORCH_BOX(&lightsr::forward));
  m.impl("gated_feed_forward_gradients", TORCH_BOX(&lightsr::backward));
}
