// The compiled kernels of depthwise_conv as raw operators of torch; their schemas stand in native.py. This file becomes
// the CPU library's, and with LIGHTSR_CUDA the CUDA library's (register_cuda.cpp).
#include "../common/tensors.h"
#include "arguments.h"

namespace lightsr {
namespace {

void check_filter(int64_t kh, int64_t kw, int64_t dh, int64_t dw) {
  STD_TORCH_CHECK(kh % 2 == 1 && kw % 2 == 1 && kh >= 1 && kw >= 1 && kh <= 31 && kw <= 31,
                  "depthwise_conv: weight must be odd from 1 to 31 a side, got ", kh, " x ", kw);
  STD_TORCH_CHECK(dh >= 1 && dw >= 1, "depthwise_conv: dilation must be at least 1, got ", dh, " and ", dw);
}

void forward(Tensor x, Tensor weight, MaybeTensor bias, int64_t dh, int64_t dw, int64_t activation,
             double negative_slope, MaybeTensor gate, MaybeTensor residual, bool flip, Tensor out) {
  bool last = layout_of(x);
  int64_t c = x.size(1), kh = weight.size(2), kw = weight.size(3);
  check_filter(kh, kw, dh, dw);
  STD_TORCH_CHECK(activation >= 0 && activation <= int64_t(Activation::sigmoid), "depthwise_conv: no such activation");
  DepthwiseConv call{.type = type_of(x),
                     .channels_last = last,
                     .flip = flip,
                     .n = x.size(0),
                     .c = c,
                     .h = x.size(2),
                     .w = x.size(3),
                     .kh = int(kh),
                     .kw = int(kw),
                     .dh = dh,
                     .dw = dw,
                     .activation = Activation(activation),
                     .negative_slope = negative_slope,
                     .x = x.const_data_ptr(),
                     .weight = parameter(weight, x, c * kh * kw, "weight"),
                     .bias = parameter(bias, x, c, "bias"),
                     .gate = picture(gate, x, last, "gate"),
                     .residual = picture(residual, x, last, "residual"),
                     .out = const_cast<void*>(picture(out, x, last, "out"))};
  if (x.numel() == 0) return;
#ifdef LIGHTSR_CUDA
  torch::stable::accelerator::DeviceGuard device(x.get_device());
  check_launch(depthwise_conv_forward_cuda(call, current_stream(x)), "depthwise_conv");
#else
  depthwise_conv_forward_cpu(call);
#endif
}

void backward_weight(Tensor grad, Tensor x, int64_t dh, int64_t dw, Tensor grad_weight, MaybeTensor grad_bias) {
  bool last = layout_of(x);
  int64_t c = x.size(1), kh = grad_weight.size(2), kw = grad_weight.size(3);
  check_filter(kh, kw, dh, dw);
  DepthwiseConvWeight call{.type = type_of(x),
                           .channels_last = last,
                           .n = x.size(0),
                           .c = c,
                           .h = x.size(2),
                           .w = x.size(3),
                           .kh = int(kh),
                           .kw = int(kw),
                           .dh = dh,
                           .dw = dw,
                           .x = x.const_data_ptr(),
                           .grad = picture(grad, x, last, "grad"),
                           .grad_weight = const_cast<void*>(parameter(grad_weight, x, c * kh * kw, "grad_weight")),
                           .grad_bias = const_cast<void*>(parameter(grad_bias, x, c, "grad_bias")),
                           .workspace = nullptr};
  if (x.numel() == 0) {
    torch::stable::zero_(grad_weight);
    if (grad_bias) torch::stable::zero_(*grad_bias);
    return;
  }
#ifdef LIGHTSR_CUDA
  torch::stable::accelerator::DeviceGuard device(x.get_device());
  int64_t doubles = (depthwise_conv_backward_weight_workspace(call) + 7) / 8;
  Tensor workspace = torch::stable::new_empty(x, {doubles}, ScalarType::Double);
  call.workspace = doubles ? workspace.mutable_data_ptr() : nullptr;
  check_launch(depthwise_conv_backward_weight_cuda(call, current_stream(x)), "depthwise_conv backward");
#else
  depthwise_conv_backward_weight_cpu(call);
#endif
}

}  // namespace
}  // namespace lightsr

#ifdef LIGHTSR_CUDA
STABLE_TORCH_LIBRARY_IMPL(lightsr, CUDA, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
#endif
  m.impl("depthwise_conv_forward", TORCH_BOX(&lightsr::forward));
  m.impl("depthwise_conv_backward_weight", TORCH_BOX(&lightsr::backward_weight));
}
