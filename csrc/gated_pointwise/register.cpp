// The compiled passes of gated_pointwise as raw operators of torch; their schemas stand in native.py.
#include <vector>

#include "../common/pictures.h"
#include "arguments.h"

namespace lightsr {
namespace {

using Tensors = std::vector<Tensor>;

int64_t pooled(int64_t length) {
  return ((length - 3) / 2 + 1 - 7) / 3 + 1;
}

GatedPointwise call_of(const Tensor& x, const Tensors& weights, double eps) {
  STD_TORCH_CHECK(weights.size() == gated::parameters, "gated_pointwise: ", int(gated::parameters), " weights, got ",
                  weights.size());
  GatedPointwise call{};
  call.type = type_of(x);
  call.channels_last = layout_of(x);
  call.n = x.size(0);
  call.c = x.size(1);
  call.h = x.size(2);
  call.w = x.size(3);
  STD_TORCH_CHECK(call.h >= 15 && call.w >= 15, "gated_pointwise: x must have at least 15 x 15 pixels");
  call.expanded = weights[gated::bias_a].numel();
  call.gate = weights[gated::entry_bias].numel();
  call.lanes = (call.gate + gated::lanes - 1) / gated::lanes * gated::lanes;
  call.coarse_h = pooled(call.h);
  call.coarse_w = pooled(call.w);
  call.eps = eps;
  call.x = x.const_data_ptr();
  const int64_t c = call.c, e = call.expanded, p = call.gate;
  const int64_t numbers[] = {c,         c, e * c,     e, e * c, e, e * c, e, p * e, p,
                             p * p * 9, p, p * p * 9, p, p * p, p, e * p, e, c * e, c};
  for (int i = 0; i < gated::parameters; ++i) {
    call.numbers[i] = numbers[i];
    call.parameters[i] = parameter(weights[i], x, numbers[i], "each of the weights");
  }
  return call;
}

ScalarType wide(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A map [N, h, w, lanes], in float64 for float64, else in float32.
void* map_of(const Tensor& map, const Tensor& x, int64_t h, int64_t w, int64_t lanes) {
  STD_TORCH_CHECK(map.scalar_type() == wide(x) && map.dim() == 4 && map.is_contiguous() && !map.is_cuda() &&
                      map.size(0) == x.size(0) && map.size(1) == h && map.size(2) == w && map.size(3) == lanes,
                  "gated_pointwise: maps must be wide and contiguous, [N, ", h, ", ", w, ", ", lanes, "]");
  return const_cast<void*>(map.const_data_ptr());
}

void* fine(const Tensor& map, const Tensor& x, const GatedPointwise& call) {
  return map_of(map, x, call.h, call.w, call.lanes);
}

void* coarse_map(const Tensor& map, const Tensor& x, const GatedPointwise& call) {
  return map_of(map, x, call.coarse_h, call.coarse_w, call.lanes);
}

double* sums_of(const MaybeTensor& sums, const GatedPointwise& call) {
  if (!sums) return nullptr;
  int64_t count = 0;
  for (int64_t each : call.numbers) count += each;
  STD_TORCH_CHECK(sums->scalar_type() == ScalarType::Double && sums->is_contiguous() && sums->numel() == count,
                  "gated_pointwise: sums must be ", count, " numbers in float64");
  return static_cast<double*>(sums->mutable_data_ptr());
}

void* like_x(const Tensor& each, const Tensor& x, bool last, const char* name) {
  STD_TORCH_CHECK(each.scalar_type() == wide(x) && each.dim() == 4 && each.numel() == x.numel() &&
                      each.size(1) == x.size(1) && each.size(2) == x.size(2) && !each.is_cuda() &&
                      (last ? is_channels_last(each) : each.is_contiguous()),
                  name, " must be wide, in the shape and layout of x");
  return const_cast<void*>(each.const_data_ptr());
}

void enter(Tensor x, Tensors weights, double eps, Tensor weight, Tensor bias, Tensor entered) {
  GatedPointwise call = call_of(x, weights, eps);
  GatedPointwiseEntry pass{.call = call,
                           .weight = parameter(weight, x, call.gate * call.c, "weight"),
                           .bias = parameter(bias, x, call.gate, "bias"),
                           .entered = fine(entered, x, call)};
  if (x.numel() != 0) gated_pointwise_entry_cpu(pass);
}

void coarsen(Tensor x, Tensors weights, double eps, Tensor entered, Tensor coarse) {
  GatedPointwise call = call_of(x, weights, eps);
  GatedPointwiseCoarse pass{.call = call, .entered = fine(entered, x, call), .coarse = coarse_map(coarse, x, call)};
  if (x.numel() != 0) gated_pointwise_coarse_cpu(pass);
}

void leave(Tensor x, Tensors weights, double eps, Tensor entered, Tensor coarse, Tensor out) {
  GatedPointwise call = call_of(x, weights, eps);
  GatedPointwiseExit pass{.call = call,
                          .entered = fine(entered, x, call),
                          .coarse = coarse_map(coarse, x, call),
                          .out = dense_picture(out, x, call.c, call.channels_last, "out")};
  if (x.numel() != 0) gated_pointwise_exit_cpu(pass);
}

void inner(Tensor x, Tensors weights, double eps, Tensor entered, Tensor coarse, Tensor grad, Tensor grad_normal,
           Tensor grad_middle, Tensor grad_entered, MaybeTensor sums) {
  GatedPointwise call = call_of(x, weights, eps);
  GatedPointwiseInner pass{.call = call,
                           .entered = fine(entered, x, call),
                           .coarse = coarse_map(coarse, x, call),
                           .grad = dense_picture(grad, x, call.c, call.channels_last, "grad"),
                           .grad_normal = like_x(grad_normal, x, call.channels_last, "grad_normal"),
                           .grad_middle = fine(grad_middle, x, call),
                           .grad_entered = fine(grad_entered, x, call),
                           .sums = sums_of(sums, call)};
  if (x.numel() != 0) gated_pointwise_inner_cpu(pass);
}

void coarse_gradients(Tensor x, Tensors weights, double eps, Tensor entered, Tensor grad_middle, Tensor grad_entered,
                      MaybeTensor sums) {
  GatedPointwise call = call_of(x, weights, eps);
  GatedPointwiseCoarseGradients pass{.call = call,
                                     .entered = fine(entered, x, call),
                                     .grad_middle = fine(grad_middle, x, call),
                                     .grad_entered = fine(grad_entered, x, call),
                                     .sums = sums_of(sums, call)};
  if (x.numel() != 0) gated_pointwise_coarse_gradients_cpu(pass);
}

void outer(Tensor x, Tensors weights, double eps, Tensor weight, Tensor grad_normal, Tensor grad_entered, Tensor grad_x,
           MaybeTensor sums) {
  GatedPointwise call = call_of(x, weights, eps);
  GatedPointwiseOuter pass{.call = call,
                           .weight = parameter(weight, x, call.gate * call.c, "weight"),
                           .grad_normal = like_x(grad_normal, x, call.channels_last, "grad_normal"),
                           .grad_entered = fine(grad_entered, x, call),
                           .grad_x = dense_picture(grad_x, x, call.c, call.channels_last, "grad_x"),
                           .sums = sums_of(sums, call)};
  if (x.numel() != 0) gated_pointwise_outer_cpu(pass);
}

}  // namespace
}  // namespace lightsr

STABLE_TORCH_LIBRARY_IMPL(lightsr, CPU, m) {
  m.impl("gated_pointwise_entry", TORCH_BOX(&lightsr::enter));
  m.impl("gated_pointwise_coarse", TORCH_BOX(&lightsr::coarsen));
  m.impl("gated_pointwise_exit", TORCH_BOX(&lightsr::leave));
  m.impl("gated_pointwise_inner", TORCH_BOX(&lightsr::inner));
  m.impl("gated_pointwise_coarse_gradients", TORCH_BOX(&lightsr::coarse_gradients));
  m.impl("gated_pointwise_outer", TORCH_BOX(&lightsr::outer));
}
