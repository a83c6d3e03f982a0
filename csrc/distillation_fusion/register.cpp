// The compiled kernels of distillation_fusion as raw operators of torch; their schemas stand in native.py. This file
// becomes the CPU library's, and with LIGHTSR_CUDA the CUDA library's (register_cuda.cpp).
#include <vector>

#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

using Tensors = std::vector<Tensor>;
using MaybeTensors = std::vector<MaybeTensor>;

DistillationFusion call_of(const Tensors& parts, const Tensor& weight, const MaybeTensor& bias,
                           const MaybeTensor& scale, const Tensors& maps, const MaybeTensor& gain,
                           const MaybeTensor& residual, const MaybeTensor& residual_gain, bool last) {
  STD_TORCH_CHECK(!parts.empty() && parts.size() <= most_parts, "distillation_fusion: from 1 to ", most_parts,
                  " parts, got ", parts.size());
  STD_TORCH_CHECK(maps.empty() || maps.size() == parts.size(), "distillation_fusion: all parts have maps, or none");
  const Tensor& x = parts[0];
  STD_TORCH_CHECK(x.dim() == 4, "parts must have 4 dimensions [N, C, H, W]");
  DistillationFusion call{};
  call.type = type_of(x);
  call.channels_last = last;
  call.n = x.size(0);
  call.pixels = x.size(2) * x.size(3);
  call.out_channels = weight.size(0);
  call.parts = int(parts.size());
  for (size_t k = 0; k < parts.size(); ++k) {
    call.channels[k] = parts[k].size(1);
    call.in += call.channels[k];
    call.part[k] = slice_of(parts[k], x, call.channels[k], last, "parts");
    if (!maps.empty()) call.map[k] = parameter(maps[k], x, call.n * call.pixels, "maps");
  }
  call.weight = parameter(weight, x, call.out_channels * call.in, "weight");
  call.bias = parameter(bias, x, call.out_channels, "bias");
  call.scale = parameter(scale, x, call.n * call.in, "scale");
  call.gain = parameter(gain, x, 1, "gain");
  call.residual = slice_of(residual, x, call.out_channels, last, "residual");
  call.residual_gain = parameter(residual_gain, x, 1, "residual_gain");
  return call;
}

bool is_empty(const DistillationFusion& call) {
  return call.n == 0 || call.pixels == 0 || call.in == 0 || call.out_channels == 0;
}

void forward(Tensors parts, Tensor weight, MaybeTensor bias, MaybeTensor scale, Tensors maps, MaybeTensor gain,
             MaybeTensor residual, MaybeTensor residual_gain, bool last, int64_t activation, double negative_slope,
             Tensor out) {
  DistillationFusion call = call_of(parts, weight, bias, scale, maps, gain, residual, residual_gain, last);
  call.out = dense_picture(out, parts[0], call.out_channels, last, "out");
  STD_TORCH_CHECK(activation >= 0 && activation <= int64_t(Activation::sigmoid), "distillation_fusion: no activation ",
                  activation);
  call.activation = static_cast<Activation>(activation);
  call.negative_slope = negative_slope;
  if (is_empty(call)) return;
#ifdef LIGHTSR_CUDA
  STD_TORCH_CHECK(activation == 0, "distillation_fusion: no activation on CUDA");
  torch::stable::accelerator::DeviceGuard device(weight.get_device());
  check_launch(distillation_fusion_forward_cuda(call, current_stream(weight)), "distillation_fusion");
#else
  distillation_fusion_forward_cpu(call);
#endif
}

double* sums_of(const MaybeTensor& each, const Tensor& x, int64_t count, const char* name) {
  if (!each) return nullptr;
  STD_TORCH_CHECK(each->scalar_type() == ScalarType::Double && each->is_cuda() == x.is_cuda() &&
                      each->numel() == count && each->is_contiguous(),
                  name, " must be float64 with ", count, " numbers");
  return static_cast<double*>(const_cast<void*>(each->const_data_ptr()));
}

void backward(Tensors parts, Tensor weight, MaybeTensor bias, MaybeTensor scale, Tensors maps, MaybeTensor gain,
              MaybeTensor residual, MaybeTensor residual_gain, bool last, Tensor grad, MaybeTensors grad_parts,
              MaybeTensors grad_maps, MaybeTensor grad_residual, MaybeTensor products, MaybeTensor sums,
              MaybeTensor residual_product) {
  const Tensor& x = parts[0];
  DistillationFusionBackward back{};
  back.call = call_of(parts, weight, bias, scale, maps, gain, residual, residual_gain, last);
  const DistillationFusion& call = back.call;
  STD_TORCH_CHECK(grad_parts.size() == parts.size() && grad_maps.size() == maps.size(),
                  "distillation_fusion_backward: a place or none for each part and map");
  back.grad = dense_picture(grad, x, call.out_channels, last, "grad");
  for (size_t k = 0; k < parts.size(); ++k) {
    back.grad_part[k] = dense_picture(grad_parts[k], x, call.channels[k], last, "grad_parts");
    if (!maps.empty()) back.grad_map[k] = result(grad_maps[k], x, call.n * call.pixels, "grad_maps");
  }
  back.grad_residual = dense_picture(grad_residual, x, call.out_channels, last, "grad_residual");
  back.each_picture = scale.has_value();
  const int64_t pictures = scale ? call.n : 1;
  back.products = sums_of(products, x, pictures * call.out_channels * call.in, "products");
  back.sums = sums_of(sums, x, pictures * call.out_channels, "sums");
  back.residual_product = sums_of(residual_product, x, 1, "residual_product");
  STD_TORCH_CHECK(residual || !back.residual_product, "distillation_fusion_backward: residual_product needs residual");
  if (is_empty(call)) return;
#ifdef LIGHTSR_CUDA
  torch::stable::accelerator::DeviceGuard device(x.get_device());
  int64_t doubles = (distillation_fusion_backward_workspace(back) + 7) / 8;
  Tensor workspace = torch::stable::new_empty(x, {doubles}, ScalarType::Double);
  back.workspace = doubles ? workspace.mutable_data_ptr() : nullptr;
  check_launch(distillation_fusion_backward_cuda(back, current_stream(x)), "distillation_fusion_backward");
#else
  distillation_fusion_backward_cpu(back);
#endif
}

}  // namespace
}  // namespace lightsr

#ifdef LIGHTSR_CUDA
STABLE_TORCH_LIBRARY_IMPL(lightsr, CUDA, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
#endif
  m.impl("distillation_fusion_forward", TORCH_BOX(&lightsr::forward));
  m.impl("distillation_fusion_gradients", TORCH_BOX(&lightsr::backward));
}
