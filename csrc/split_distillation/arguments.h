// One call of the split_distillation kernels, for the CPU and for CUDA: plain pointers and sizes.
#pragma once

#include "../common/slice.h"
#include "../common/types.h"

namespace lightsr {

struct DenseConv;  // dense_conv/arguments.h

// h         = act(x + bias + residual)
// d         = act_distilled(weight h[:split] + weight_bias), or h[:split] where weight is null
// distilled = d sigmoid(gate_weight d + gate_bias), or d where gate_weight is null
// remaining = h[split:], or h where `whole`
struct SplitDistillation {
  Type type;             // of every tensor
  bool channels_last;    // the layout of pictures and results
  int64_t n, c, pixels;  // pixels: H W; none of them 0
  int64_t split;         // channels that are distilled; C where `whole`
  bool whole;
  int64_t distilled;  // D, channels of the first result; `split` where weight is null
  Activation activation, distilled_activation;
  double negative_slope;      // of both
  Slice x;                    // none where it is the convolution's result
  Slice residual;             // or none
  const void* bias;           // [C] or null
  const void* weight;         // [D, split] or null
  const void* weight_bias;    // [D] or null
  const void* gate_weight;    // [D, D] or null
  const void* gate_bias;      // [D] or null
  void* distilled_out;        // dense
  void* remaining;            // dense, or null: nobody reads it
  void* activated = nullptr;  // CPU: h[:split] as well, dense, or null: nobody reads it
};

// h and d are computed again; or, on the CPU, h is given: x is h[:split], without bias and residual, and `rest` is
// h[split:]. Gradients of parameters are sums over all pixels, in a fixed order.
struct SplitDistillationBackward {
  SplitDistillation call;      // without its results
  bool activated = false;      // whether h is given; the first activation is then none, relu or leaky_relu
  Slice rest;                  // none where `whole`
  const void* grad_distilled;  // dense
  const void* grad_remaining;  // dense, or null where there is no remaining part
  void* grad_x;                // dense, or null: not wanted; so for all that follow
  void* grad_residual;         // the same numbers as grad_x
  void* grad_bias;             // [C]
  void* grad_weight;           // [D, split]
  void* grad_weight_bias;      // [D]
  void* grad_gate_weight;      // [D, D]
  void* grad_gate_bias;        // [D]
  void* workspace;             // CUDA: as many bytes as split_distillation_backward_workspace says
};

// cpu_convolution.cpp: x is the result of a 3 x 3 convolution of the same layout, which has neither bias nor out.
void split_distillation_convolved_cpu(const DenseConv&, const SplitDistillation&);

// cpu.cpp
void split_distillation_forward_cpu(const SplitDistillation&);
void split_distillation_backward_cpu(const SplitDistillationBackward&);

// cuda.cu; 0 or the number of a cudaError_t
int split_distillation_forward_cuda(const SplitDistillation&, void* stream);
int64_t split_distillation_backward_workspace(const SplitDistillationBackward&);  // bytes
int split_distillation_backward_cuda(const SplitDistillationBackward&, void* stream);

}  // namespace lightsr
