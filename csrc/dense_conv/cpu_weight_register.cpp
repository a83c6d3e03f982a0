// The gradients of dense_conv's filters and bias as a raw operator of torch; its schema stands in native.py.
#include "../common/tensors.h"
#include "weight_arguments.h"

namespace lightsr {
namespace {

void dense_conv_backward_weight(Tensor grad, Tensor x, Tensor grad_weight, MaybeTensor grad_bias) {
  const bool last = layout_of(x);
  check_like(grad, x, "grad");
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == x.size(0) && grad.size(2) == x.size(2) &&
                      grad.size(3) == x.size(3) && (last ? is_channels_last(grad) : grad.is_contiguous()),
                  "dense_conv: grad must have the pictures, pixels and layout of x");
  STD_TORCH_CHECK(grad_weight.dim() == 4, "dense_conv: grad_weight must have 4 dimensions");
  const int64_t ins = x.size(1), outs = grad.size(1), kh = grad_weight.size(2), kw = grad_weight.size(3);
  STD_TORCH_CHECK(kh % 2 == 1 && kw % 2 == 1 && kh <= 7 && kw <= 7,
                  "dense_conv: weight must be odd from 1 to 7 a side, got ", kh, " x ", kw);
  DenseConvWeight call{.type = type_of(x),
                       .channels_last = last,
                       .n = x.size(0),
                       .ins = ins,
                       .outs = outs,
                       .h = x.size(2),
                       .w = x.size(3),
                       .kh = int(kh),
                       .kw = int(kw),
                       .x = x.const_data_ptr(),
                       .grad = grad.const_data_ptr(),
                       .grad_weight = const_cast<void*>(parameter(grad_weight, x, outs * ins * kh * kw, "grad_weight")),
                       .grad_bias = const_cast<void*>(parameter(grad_bias, x, outs, "grad_bias"))};
  if (x.numel() == 0 || grad.numel() == 0) {
    torch::stable::zero_(grad_weight);
    if (grad_bias) torch::stable::zero_(*grad_bias);
    return;
  }
  dense_conv_backward_weight_cpu(call);
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("dense_conv_backward_weight", TORCH_BOX(&lightsr::dense_conv_backward_weight));
}
