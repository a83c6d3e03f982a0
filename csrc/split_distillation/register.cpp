// The compiled kernels of split_distillation as raw operators of torch; their schemas stand in native.py. This file
// becomes the CPU library's, and with LIGHTSR_CUDA the CUDA library's (register_cuda.cpp).
#include "../common/pictures.h"
#include "../dense_conv/arguments.h"
#include "arguments.h"

namespace lightsr {
namespace {

Activation activation_of(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number <= int64_t(Activation::sigmoid), "split_distillation: no activation ", number);
  return Activation(number);
}

// Of pictures with the pixels of x and c channels.
SplitDistillation call_of(const Tensor& x, int64_t c, const MaybeTensor& residual, const MaybeTensor& bias,
                          const MaybeTensor& weight, const MaybeTensor& weight_bias, const MaybeTensor& gate_weight,
                          const MaybeTensor& gate_bias, int64_t split, bool whole, bool last, int64_t activation,
                          int64_t distilled_activation, double negative_slope) {
  STD_TORCH_CHECK(x.dim() == 4, "x must have 4 dimensions [N, C, H, W]");
  int64_t distilled = weight ? weight->size(0) : split;
  STD_TORCH_CHECK(split >= 0 && (whole ? split == c : split <= c), "split_distillation: cannot split ", c, " at ",
                  split);
  return {.type = type_of(x),
          .channels_last = last,
          .n = x.size(0),
          .c = c,
          .pixels = x.size(2) * x.size(3),
          .split = split,
          .whole = whole,
          .distilled = distilled,
          .activation = activation_of(activation),
          .distilled_activation = activation_of(distilled_activation),
          .negative_slope = negative_slope,
          .x = {},
          .residual = slice_of(residual, x, c, last, "residual"),
          .bias = parameter(bias, x, c, "bias"),
          .weight = parameter(weight, x, distilled * split, "weight"),
          .weight_bias = parameter(weight_bias, x, distilled, "weight_bias"),
          .gate_weight = parameter(gate_weight, x, distilled * distilled, "gate_weight"),
          .gate_bias = parameter(gate_bias, x, distilled, "gate_bias"),
          .distilled_out = nullptr,
          .remaining = nullptr};
}

void set_results(SplitDistillation& call, const Tensor& x, const Tensor& distilled, const MaybeTensor& remaining) {
  const int64_t rest = call.whole ? call.c : call.c - call.split;
  call.distilled_out = dense_picture(distilled, x, call.distilled, call.channels_last, "distilled");
  call.remaining = dense_picture(remaining, x, rest, call.channels_last, "remaining");
}

void forward(Tensor x, MaybeTensor residual, MaybeTensor bias, MaybeTensor weight, MaybeTensor weight_bias,
             MaybeTensor gate_weight, MaybeTensor gate_bias, int64_t split, bool whole, bool last, int64_t activation,
             int64_t distilled_activation, double negative_slope, Tensor distilled, MaybeTensor remaining) {
  SplitDistillation call = call_of(x, x.size(1), residual, bias, weight, weight_bias, gate_weight, gate_bias, split,
                                   whole, last, activation, distilled_activation, negative_slope);
  call.x = slice_of(x, x, call.c, last, "x");
  set_results(call, x, distilled, remaining);
  if (x.numel() == 0) return;
#ifdef LIGHTSR_CUDA
  torch::stable::accelerator::DeviceGuard device(x.get_device());
  check_launch(split_distillation_forward_cuda(call, current_stream(x)), "split_distillation");
#else
  split_distillation_forward_cpu(call);
#endif
}

void backward(Tensor x, MaybeTensor residual, MaybeTensor bias, MaybeTensor weight, MaybeTensor weight_bias,
              MaybeTensor gate_weight, MaybeTensor gate_bias, int64_t split, bool whole, bool last, int64_t activation,
              int64_t distilled_activation, double negative_slope, Tensor grad_distilled, MaybeTensor grad_remaining,
              bool activated, MaybeTensor rest, MaybeTensor grad_x, MaybeTensor grad_residual, MaybeTensor grad_bias,
              MaybeTensor grad_weight, MaybeTensor grad_weight_bias, MaybeTensor grad_gate_weight,
              MaybeTensor grad_gate_bias) {
  int64_t c = x.size(1) + (rest ? rest->size(1) : 0);
  SplitDistillation call = call_of(x, c, residual, bias, weight, weight_bias, gate_weight, gate_bias, split, whole,
                                   last, activation, distilled_activation, negative_slope);
  STD_TORCH_CHECK(activated ? !(residual || bias || call.activation > Activation::leaky_relu) : !rest,
                  "split_distillation: of activated values bias and residual are gone, and their signs tell the slope");
  STD_TORCH_CHECK(!activated || x.size(1) == split, "split_distillation: x must be what is distilled");
  call.x = slice_of(x, x, x.size(1), last, "x");
  int64_t distilled = call.distilled;
  SplitDistillationBackward back{
      .call = call,
      .activated = activated,
      .rest = slice_of(rest, x, c - x.size(1), last, "rest"),
      .grad_distilled = dense_picture(grad_distilled, x, distilled, last, "grad_distilled"),
      .grad_remaining = dense_picture(grad_remaining, x, whole ? c : c - split, last, "grad_remaining"),
      .grad_x = dense_picture(grad_x, x, c, last, "grad_x"),
      .grad_residual = dense_picture(grad_residual, x, c, last, "grad_residual"),
      .grad_bias = result(grad_bias, x, c, "grad_bias"),
      .grad_weight = result(grad_weight, x, distilled * split, "grad_weight"),
      .grad_weight_bias = result(grad_weight_bias, x, distilled, "grad_weight_bias"),
      .grad_gate_weight = result(grad_gate_weight, x, distilled * distilled, "grad_gate_weight"),
      .grad_gate_bias = result(grad_gate_bias, x, distilled, "grad_gate_bias"),
      .workspace = nullptr};
  if (x.numel() == 0) return;
#ifdef LIGHTSR_CUDA
  STD_TORCH_CHECK(!activated, "split_distillation: the CUDA kernels compute activated values again");
  torch::stable::accelerator::DeviceGuard device(x.get_device());
  int64_t doubles = (split_distillation_backward_workspace(back) + 7) / 8;
  Tensor workspace = torch::stable::new_empty(x, {doubles}, ScalarType::Double);
  back.workspace = doubles ? workspace.mutable_data_ptr() : nullptr;
  check_launch(split_distillation_backward_cuda(back, current_stream(x)), "split_distillation_backward");
#else
  split_distillation_backward_cpu(back);
#endif
}

#ifndef LIGHTSR_CUDA
void convolved(Tensor x, MaybeTensor residual, MaybeTensor bias, MaybeTensor weight, MaybeTensor weight_bias,
               MaybeTensor gate_weight, MaybeTensor gate_bias, int64_t split, bool whole, bool last, int64_t activation,
               int64_t distilled_activation, double negative_slope, Tensor convolution, Tensor distilled,
               MaybeTensor remaining, MaybeTensor activated) {
  STD_TORCH_CHECK(convolution.dim() == 4 && convolution.size(2) == 3 && convolution.size(3) == 3,
                  "split_distillation: convolution must be [C, C_in, 3, 3]");
  STD_TORCH_CHECK(layout_of(x) == last, "split_distillation: x must be in the layout of the call");
  const int64_t c = convolution.size(0), ins = x.size(1);
  SplitDistillation call = call_of(x, c, residual, bias, weight, weight_bias, gate_weight, gate_bias, split, whole,
                                   last, activation, distilled_activation, negative_slope);
  set_results(call, x, distilled, remaining);
  call.activated = dense_picture(activated, x, split, last, "activated");
  DenseConv first{.type = call.type,
                  .channels_last = last,
                  .transpose = false,
                  .winograd = true,
                  .n = call.n,
                  .c = ins,
                  .h = x.size(2),
                  .w = x.size(3),
                  .outs = c,
                  .kh = 3,
                  .kw = 3,
                  .activation = Activation::none,
                  .negative_slope = 0,
                  .shuffle = 1,
                  .x = x.const_data_ptr(),
                  .weight = parameter(convolution, x, c * ins * 9, "convolution"),
                  .bias = nullptr,
                  .residual = nullptr,
                  .out = nullptr};
  if (x.numel() > 0) split_distillation_convolved_cpu(first, call);
}
#endif

}  // namespace
}  // namespace lightsr

#ifdef LIGHTSR_CUDA
STABLE_TORCH_LIBRARY_IMPL(lightsr, CUDA, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
#endif
  m.impl("split_distillation_forward", TORCH_BOX(&lightsr::forward));
  m.impl("split_distillation_gradients", TORCH_BOX(&lightsr::backward));
#ifndef LIGHTSR_CUDA
  m.impl("split_distillation_convolved", TORCH_BOX(&lightsr::convolved));
#endif
}
