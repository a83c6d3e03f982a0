// The compiled kernels of multi_attention as raw operators of torch; their schemas stand in native.py.
#include <vector>

#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

using Tensors = std::vector<Tensor>;

// Numbers in the wide type of x, or in float64.
const void* numbers(const Tensor& each, const Tensor& x, int64_t count, bool always_double, const char* name) {
  const bool as_double = always_double || x.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(each.scalar_type() == (as_double ? ScalarType::Double : ScalarType::Float) && !each.is_cuda(), name,
                  " must be float", as_double ? "64" : "32");
  STD_TORCH_CHECK(each.numel() == count && each.is_contiguous(), name, " must be contiguous with ", count, " numbers");
  return each.const_data_ptr();
}
void* written(const Tensor& each, const Tensor& x, int64_t count, const char* name) {
  return const_cast<void*>(numbers(each, x, count, false, name));
}
void* written(const MaybeTensor& each, const Tensor& x, int64_t count, const char* name) {
  return each ? written(*each, x, count, name) : nullptr;
}
double* doubles(const Tensor& each, const Tensor& x, int64_t count, const char* name) {
  return static_cast<double*>(const_cast<void*>(numbers(each, x, count, true, name)));
}
double* doubles(const MaybeTensor& each, const Tensor& x, int64_t count, const char* name) {
  return each ? doubles(*each, x, count, name) : nullptr;
}

std::vector<AttentionBranch> branches_of(const Tensors& parts, const Tensors& pixel_weights,
                                         const Tensors& pixel_biases, const Tensors& spatial_weights,
                                         const Tensors& down_weights, const Tensors& down_biases,
                                         const Tensors& up_weights, const Tensors& up_biases, bool last) {
  STD_TORCH_CHECK(!parts.empty(), "parts must hold at least one tensor");
  for (const Tensors* each :
       {&pixel_weights, &pixel_biases, &spatial_weights, &down_weights, &down_biases, &up_weights, &up_biases}) {
    STD_TORCH_CHECK(each->size() == parts.size(), "every list must have one entry a part");
  }
  const Tensor& x = parts[0];
  STD_TORCH_CHECK(x.dim() == 4, "parts must have 4 dimensions [N, C, H, W]");
  std::vector<AttentionBranch> found(parts.size());
  int64_t first = 0;
  for (size_t k = 0; k < parts.size(); ++k) {
    const int64_t c = parts[k].size(1), hidden = down_weights[k].size(0), side = spatial_weights[k].size(3);
    STD_TORCH_CHECK(side % 2 == 1, "spatial_weights must be odd a side, got ", side);
    found[k] = {.channels = c,
                .first = first,
                .x = slice_of(parts[k], x, c, last, "parts"),
                .pixel_weight = parameter(pixel_weights[k], x, c * c, "pixel_weights"),
                .pixel_bias = parameter(pixel_biases[k], x, c, "pixel_biases"),
                .spatial_weight = parameter(spatial_weights[k], x, 2 * side * side, "spatial_weights"),
                .side = side,
                .down_weight = parameter(down_weights[k], x, hidden * c, "down_weights"),
                .down_bias = parameter(down_biases[k], x, hidden, "down_biases"),
                .up_weight = parameter(up_weights[k], x, c * hidden, "up_weights"),
                .up_bias = parameter(up_biases[k], x, c, "up_biases"),
                .hidden = hidden};
    first += c;
  }
  return found;
}

struct Arguments {
  std::vector<AttentionBranch> branches;
  MultiAttention call{};
};

// The call points into the branches, which lie where they are.
Arguments arguments_of(const Tensors& parts, const Tensors& pixel_weights, const Tensors& pixel_biases,
                       const Tensors& spatial_weights, const Tensors& down_weights, const Tensors& down_biases,
                       const Tensors& up_weights, const Tensors& up_biases, const MaybeTensor& out_weight,
                       const MaybeTensor& out_bias, const MaybeTensor& residual, bool last, const MaybeTensor& pooled,
                       const Tensor& gates, const Tensor& means, const Tensor& scales) {
  Arguments found{branches_of(parts, pixel_weights, pixel_biases, spatial_weights, down_weights, down_biases,
                              up_weights, up_biases, last)};
  const Tensor& x = parts[0];
  MultiAttention& call = found.call;
  call.type = type_of(x);
  call.channels_last = last;
  call.n = x.size(0);
  call.h = x.size(2);
  call.w = x.size(3);
  call.in = found.branches.back().first + found.branches.back().channels;
  call.out_channels = out_weight ? out_weight->size(0) : call.in;
  call.branches = int64_t(found.branches.size());
  call.branch = found.branches.data();
  call.out_weight = parameter(out_weight, x, call.out_channels * call.in, "out_weight");
  call.out_bias = parameter(out_bias, x, call.out_channels, "out_bias");
  call.residual = slice_of(residual, x, call.out_channels, last, "residual");
  const int64_t maps = call.n * call.branches * call.h * call.w;
  call.pooled = written(pooled, x, 2 * maps, "pooled");
  call.gates = written(gates, x, maps, "gates");
  call.means = doubles(means, x, call.n * call.in, "means");
  call.scales = written(scales, x, call.n * call.in, "scales");
  return found;
}

bool is_empty(const MultiAttention& call) {
  return call.n * call.h * call.w == 0 || call.out_channels == 0;
}

#define LIGHTSR_ARGUMENTS                                                                                       \
  Tensors parts, Tensors pixel_weights, Tensors pixel_biases, Tensors spatial_weights, Tensors down_weights,    \
      Tensors down_biases, Tensors up_weights, Tensors up_biases, MaybeTensor out_weight, MaybeTensor out_bias, \
      MaybeTensor residual, bool last, MaybeTensor pooled, Tensor gates, Tensor means, Tensor scales
#define LIGHTSR_GIVEN                                                                                                \
  parts, pixel_weights, pixel_biases, spatial_weights, down_weights, down_biases, up_weights, up_biases, out_weight, \
      out_bias, residual, last, pooled, gates, means, scales

void forward(LIGHTSR_ARGUMENTS, MaybeTensor out) {
  Arguments all = arguments_of(LIGHTSR_GIVEN);
  all.call.out = dense_picture(out, parts[0], all.call.out_channels, last, "out");
  if (!is_empty(all.call)) multi_attention_forward_cpu(all.call);
}

MultiAttentionBackward backward_of(const MultiAttention& call, const Tensor& x, const Tensor& grad) {
  MultiAttentionBackward back{};
  back.call = call;
  back.grad = dense_picture(grad, x, call.out_channels, call.channels_last, "grad");
  return back;
}

void products(LIGHTSR_ARGUMENTS, Tensor grad, Tensor found, MaybeTensor sums) {
  const Arguments all = arguments_of(LIGHTSR_GIVEN);
  const MultiAttention& call = all.call;
  MultiAttentionBackward back = backward_of(call, parts[0], grad);
  const int64_t rows = call.out_weight ? call.out_channels : 1;
  back.products = doubles(found, parts[0], call.n * rows * call.in, "products");
  back.sums = doubles(sums, parts[0], call.n * call.out_channels, "sums");
  STD_TORCH_CHECK(call.out_weight || !sums, "sums need out_weight");
  if (!is_empty(call)) multi_attention_products_cpu(back);
}

void logits(LIGHTSR_ARGUMENTS, Tensor grad, Tensor constants, Tensor grad_logits, Tensor shares) {
  const Arguments all = arguments_of(LIGHTSR_GIVEN);
  const MultiAttention& call = all.call;
  const int64_t maps = call.n * call.branches * call.h * call.w;
  STD_TORCH_CHECK(pooled, "pooled must be given");
  MultiAttentionBackward back = backward_of(call, parts[0], grad);
  back.constants = numbers(constants, parts[0], call.n * call.in, false, "constants");
  back.grad_logits = written(grad_logits, parts[0], maps, "grad_logits");
  back.shares = written(shares, parts[0], maps, "shares");
  if (!is_empty(call)) multi_attention_logits_cpu(back);
}

void pixels(LIGHTSR_ARGUMENTS, Tensor grad, Tensor constants, Tensor shares, Tensor grad_pooled,
            std::vector<MaybeTensor> grad_parts, std::vector<MaybeTensor> grad_pixel_weights,
            std::vector<MaybeTensor> grad_pixel_biases) {
  const Arguments all = arguments_of(LIGHTSR_GIVEN);
  const MultiAttention& call = all.call;
  const Tensor& x = parts[0];
  const int64_t maps = call.n * call.branches * call.h * call.w;
  STD_TORCH_CHECK(pooled, "pooled must be given");
  STD_TORCH_CHECK(grad_parts.size() == parts.size() && grad_pixel_weights.size() == parts.size() &&
                      grad_pixel_biases.size() == parts.size(),
                  "a place or none for the gradients of each branch");
  MultiAttentionBackward back = backward_of(call, x, grad);
  back.constants = numbers(constants, x, call.n * call.in, false, "constants");
  back.shares = written(shares, x, maps, "shares");
  back.grad_pooled = numbers(grad_pooled, x, 2 * maps, false, "grad_pooled");
  std::vector<void*> places;
  std::vector<double*> weights, biases;
  for (size_t k = 0; k < parts.size(); ++k) {
    const int64_t c = all.branches[k].channels;
    places.push_back(dense_picture(grad_parts[k], x, c, last, "grad_parts"));
    weights.push_back(doubles(grad_pixel_weights[k], x, c * c, "grad_pixel_weights"));
    biases.push_back(doubles(grad_pixel_biases[k], x, c, "grad_pixel_biases"));
  }
  back.grad_x = places.data();
  back.grad_pixel_weights = weights.data();
  back.grad_pixel_biases = biases.data();
  if (!is_empty(call)) multi_attention_pixels_cpu(back);
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("multi_attention_forward", TORCH_BOX(&lightsr::forward));
  m.impl("multi_attention_products", TORCH_BOX(&lightsr::products));
  m.impl("multi_attention_logits", TORCH_BOX(&lightsr::logits));
  m.impl("multi_attention_pixels", TORCH_BOX(&lightsr::pixels));
}
