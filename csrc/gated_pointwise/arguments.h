// The passes of gated_pointwise and of its gradients: plain pointers and sizes.
//
// With n = norm_weight (x - mean) / sqrt(variance + eps) + norm_bias over the channels of each pixel:
//
//   entry   entered = entry_weight (weight_c n + bias_c) + entry_bias
//   coarse  coarse = conv3x3(max7x7(conv3x3(entered, stride 2), stride 3)) with their biases
//   exit    m   = coarse, enlarged, + skip_weight entered + skip_bias
//           s   = relu6(weight_a n + bias_a) (weight_b n + bias_b)
//                 + (weight_c n + bias_c) sigmoid(exit_weight m + exit_bias)
//           out = out_weight s + out_bias
//
// Nothing non-linear stands between weight_c and the gate's entry: their product is one matrix, and the first pass
// needs nothing of E channels. What lies between the passes is small: P channels, on a coarse grid. It lies as [N, H,
// W, P] in both layouts, in float64 for float64, else in float32, with P filled up to whole lanes by zeros.
#pragma once

#include "../common/types.h"

namespace lightsr {

namespace gated {

// The parameters in the order of the op's arguments.
enum Parameter {
  norm_weight,    // [C]
  norm_bias,      // [C]
  weight_a,       // [E, C]
  bias_a,         // [E]
  weight_b,       // [E, C]
  bias_b,         // [E]
  weight_c,       // [E, C]
  bias_c,         // [E]
  entry_weight,   // [P, E]
  entry_bias,     // [P]
  stride_weight,  // [P, P, 3, 3]
  stride_bias,    // [P]
  pool_weight,    // [P, P, 3, 3]
  pool_bias,      // [P]
  skip_weight,    // [P, P]
  skip_bias,      // [P]
  exit_weight,    // [E, P]
  exit_bias,      // [E]
  out_weight,     // [C, E]
  out_bias,       // [C]
  parameters      // how many there are
};

constexpr int64_t lanes = 16;  // the small maps have a multiple of so many channels

}  // namespace gated

struct GatedPointwise {
  Type type;           // of every tensor but the small maps and the sums
  bool channels_last;  // the layout of x, grad, out and what has their shape: dense [N, H, W, C], else [N, C, H, W]
  int64_t n, c, h, w;  // none of them 0
  int64_t expanded;    // E
  int64_t gate;        // P
  int64_t lanes;       // P, rounded up
  int64_t coarse_h, coarse_w;
  double eps;
  const void* x;
  const void* parameters[gated::parameters];
  int64_t numbers[gated::parameters];  // of each
};

struct GatedPointwiseEntry {
  GatedPointwise call;
  const void *weight, *bias;  // [P, C] and [P]: entry after c
  void* entered;              // [N, H, W, lanes]
};

struct GatedPointwiseCoarse {
  GatedPointwise call;  // x is not read
  const void* entered;
  void* coarse;  // [N, coarse_h, coarse_w, lanes]
};

struct GatedPointwiseExit {
  GatedPointwise call;
  const void *entered, *coarse;
  void* out;
};

// The gradients of parameters are sums over pixels: one behind the other in the parameters' order, in float64.

// From grad, that of out, to the middle of the gate and to n. Of the parameters: a, b, c, skip, exit, out.
struct GatedPointwiseInner {
  GatedPointwise call;
  const void *entered, *coarse, *grad;
  void* grad_normal;   // of n, but for what comes from `entered`: the shape and layout of x, wide
  void* grad_middle;   // of m: [N, H, W, lanes]
  void* grad_entered;  // of `entered`, but for what comes from `coarse`: [N, H, W, lanes]
  double* sums;        // or null: nobody wants them
};

// From the middle of the gate to `entered`, past the coarse map. Of the parameters: stride, pool.
struct GatedPointwiseCoarseGradients {
  GatedPointwise call;  // x is not read
  const void *entered, *grad_middle;
  void* grad_entered;  // is added to
  double* sums;
};

// From n and `entered` to x. Of the parameters: the norm, entry, and c, which is added to.
struct GatedPointwiseOuter {
  GatedPointwise call;
  const void* weight;  // [P, C]: entry after c
  const void *grad_normal, *grad_entered;
  void* grad_x;  // may be the memory of grad_normal
  double* sums;
};

// cpu.cpp
void gated_pointwise_entry_cpu(const GatedPointwiseEntry&);
void gated_pointwise_coarse_cpu(const GatedPointwiseCoarse&);
void gated_pointwise_exit_cpu(const GatedPointwiseExit&);

// cpu_backward.cpp
void gated_pointwise_inner_cpu(const GatedPointwiseInner&);
void gated_pointwise_coarse_gradients_cpu(const GatedPointwiseCoarseGradients&);
void gated_pointwise_outer_cpu(const GatedPointwiseOuter&);

}  // namespace lightsr
