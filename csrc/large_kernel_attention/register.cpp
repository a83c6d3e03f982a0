// The compiled kernels of large_kernel_attention as raw operators of torch; their schemas stand in native.py. This file
// becomes the CPU library's, and with LIGHTSR_CUDA the CUDA library's (register_cuda.cpp).
#include <vector>

#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

using Tensors = std::vector<Tensor>;

void take_residual(const Tensors& residual, const Tensor& x, LargeKernelAttention& call) {
  const bool last = call.channels_last;
  if (residual.size() == 1 && (last ? is_channels_last(residual[0]) : residual[0].is_contiguous())) {
    call.residual = picture(residual[0], x, last, "residual");
    return;
  }
#ifdef LIGHTSR_CUDA
  STD_TORCH_CHECK(residual.empty(), "large_kernel_attention: the residual must be one dense picture");
#endif
  STD_TORCH_CHECK(residual.size() <= most_residual_parts, "large_kernel_attention: up to ", most_residual_parts,
                  " parts of the residual, got ", residual.size());
  int64_t channels = 0;
  for (const Tensor& each : residual) {
    call.part_channels[call.parts] = each.size(1);
    call.part[call.parts++] = slice_of(each, x, each.size(1), last, "residual");
    channels += each.size(1);
  }
  STD_TORCH_CHECK(residual.empty() || channels == call.c, "large_kernel_attention: the residual must have ", call.c,
                  " channels, got ", channels);
}

void forward(Tensor x, Tensor weight1, MaybeTensor bias1, Tensor weight2, MaybeTensor bias2, Tensor mix_weight,
             MaybeTensor mix_bias, int64_t dilation, MaybeTensor out_weight, MaybeTensor out_bias, Tensors residual,
             Tensor out) {
  bool last = layout_of(x);
  int64_t c = x.size(1), kh1 = weight1.size(2), kw1 = weight1.size(3), kh2 = weight2.size(2), kw2 = weight2.size(3);
  for (int64_t side : {kh1, kw1, kh2, kw2}) {
    STD_TORCH_CHECK(side % 2 == 1 && side >= 1 && side <= 31,
                    "large_kernel_attention: weights must be odd from 1 to 31 a side, got ", side);
  }
  STD_TORCH_CHECK(dilation >= 1, "large_kernel_attention: dilation must be at least 1, got ", dilation);
  LargeKernelAttention call{.type = type_of(x),
                            .channels_last = last,
                            .n = x.size(0),
                            .c = c,
                            .h = x.size(2),
                            .w = x.size(3),
                            .kh1 = int(kh1),
                            .kw1 = int(kw1),
                            .kh2 = int(kh2),
                            .kw2 = int(kw2),
                            .dilation = dilation,
                            .x = x.const_data_ptr(),
                            .weight1 = parameter(weight1, x, c * kh1 * kw1, "weight1"),
                            .bias1 = parameter(bias1, x, c, "bias1"),
                            .weight2 = parameter(weight2, x, c * kh2 * kw2, "weight2"),
                            .bias2 = parameter(bias2, x, c, "bias2"),
                            .mix_weight = parameter(mix_weight, x, c * c, "mix_weight"),
                            .mix_bias = parameter(mix_bias, x, c, "mix_bias"),
                            .out_weight = parameter(out_weight, x, c * c, "out_weight"),
                            .out_bias = parameter(out_bias, x, c, "out_bias"),
                            .residual = nullptr,
                            .parts = 0,
                            .part = {},
                            .part_channels = {},
                            .out = const_cast<void*>(picture(out, x, last, "out")),
                            .workspace = nullptr};
  take_residual(residual, x, call);
  if (x.numel() == 0) return;
#ifdef LIGHTSR_CUDA
  torch::stable::accelerator::DeviceGuard device(x.get_device());
  int64_t doubles = (large_kernel_attention_workspace(call) + 7) / 8;
  Tensor workspace = torch::stable::new_empty(x, {doubles}, ScalarType::Double);
  call.workspace = doubles ? workspace.mutable_data_ptr() : nullptr;
  check_launch(large_kernel_attention_forward_cuda(call, current_stream(x)), "large_kernel_attention");
#else
  large_kernel_attention_forward_cpu(call);
#endif
}

#ifndef LIGHTSR_CUDA
void mix_backward(Tensor x, Tensor t, Tensor mix_weight, MaybeTensor mix_bias, MaybeTensor out_weight, Tensor grad,
                  MaybeTensor grad_x, MaybeTensor grad_t, MaybeTensor grad_mix_weight, MaybeTensor grad_mix_bias,
                  MaybeTensor grad_out_weight, MaybeTensor grad_out_bias) {
  const bool last = layout_of(x);
  const int64_t c = x.size(1);
  const LargeKernelAttentionMixBackward call{.type = type_of(x),
                                             .channels_last = last,
                                             .n = x.size(0),
                                             .c = c,
                                             .pixels = x.size(2) * x.size(3),
                                             .x = x.const_data_ptr(),
                                             .t = picture(t, x, last, "t"),
                                             .mix_weight = parameter(mix_weight, x, c * c, "mix_weight"),
                                             .mix_bias = parameter(mix_bias, x, c, "mix_bias"),
                                             .out_weight = parameter(out_weight, x, c * c, "out_weight"),
                                             .grad = picture(grad, x, last, "grad"),
                                             .grad_x = dense_picture(grad_x, x, c, last, "grad_x"),
                                             .grad_t = dense_picture(grad_t, x, c, last, "grad_t"),
                                             .grad_mix_weight = result(grad_mix_weight, x, c * c, "grad_mix_weight"),
                                             .grad_mix_bias = result(grad_mix_bias, x, c, "grad_mix_bias"),
                                             .grad_out_weight = result(grad_out_weight, x, c * c, "grad_out_weight"),
                                             .grad_out_bias = result(grad_out_bias, x, c, "grad_out_bias")};
  STD_TORCH_CHECK(x.numel() != 0, "large_kernel_attention: nothing to go back through");
  large_kernel_attention_mix_backward_cpu(call);
}
#endif

}  // namespace
}  // namespace lightsr

#ifdef LIGHTSR_CUDA
STABLE_TORCH_LIBRARY_IMPL(lightsr, CUDA, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
#endif
  m.impl("large_kernel_attention_forward", TORCH_BOX(&lightsr::forward));
#ifndef LIGHTSR_CUDA
  m.impl("large_kernel_attention_mix_gradients", TORCH_BOX(&lightsr::mix_backward));
#endif
}
