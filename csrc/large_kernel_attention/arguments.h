// One call of the large-kernel attention kernels, for the CPU and for CUDA: plain pointers and sizes.
#pragma once

#include "../common/slice.h"
#include "../common/types.h"

namespace lightsr {

constexpr int most_residual_parts = 8;  // Python joins longer lists

// t   = conv(conv(x, weight1) + bias1, weight2, dilation) + bias2, what lies between zero outside the picture
// y   = x * (mix_weight t + mix_bias)
// out = (out_weight y + out_bias, or y where out_weight is null) + residual
struct LargeKernelAttention {
  Type type;               // of every tensor
  bool channels_last;      // the layout of x, residual and out: dense [N, H, W, C], else dense [N, C, H, W]
  int64_t n, c, h, w;      // none of them 0
  int kh1, kw1, kh2, kw2;  // odd, 1 to 31
  int64_t dilation;        // of the second convolution, at least 1
  const void* x;
  const void* weight1;     // [C, KH1, KW1]
  const void* bias1;       // [C] or null
  const void* weight2;     // [C, KH2, KW2]
  const void* bias2;       // [C] or null
  const void* mix_weight;  // [C, C]: output channel, input channel
  const void* mix_bias;    // [C] or null
  const void* out_weight;  // [C, C] or null
  const void* out_bias;    // [C] or null
  const void* residual;    // or null
  int parts;               // on the CPU the residual may be in parts, channels beside each other; 0: it is not
  Slice part[most_residual_parts];
  int64_t part_channels[most_residual_parts];
  void* out;
  void* workspace;  // as many bytes as the function below the launcher asks for; null where it asks for none
};

// What lies behind t on the way back. Gradients of parameters are sums over all pixels, in a fixed order.
struct LargeKernelAttentionMixBackward {
  Type type;             // of every tensor
  bool channels_last;    // the layout of pictures
  int64_t n, c, pixels;  // pixels: H W; none of them 0
  const void *x, *t;
  const void* mix_weight;  // [C, C]
  const void* mix_bias;    // [C] or null
  const void* out_weight;  // [C, C] or null
  const void* grad;        // of the result
  void* grad_x;            // without what comes by t; null: not wanted; so for all that follow
  void* grad_t;
  void* grad_mix_weight;
  void* grad_mix_bias;
  void* grad_out_weight;
  void* grad_out_bias;
};

// cpu.cpp
void large_kernel_attention_forward_cpu(const LargeKernelAttention&);

// cpu_backward.cpp
void large_kernel_attention_mix_backward_cpu(const LargeKernelAttentionMixBackward&);

// cuda.cu; 0 or the number of a cudaError_t
int64_t large_kernel_attention_workspace(const LargeKernelAttention&);  // bytes
int large_kernel_attention_forward_cuda(const LargeKernelAttention&, void* stream);

}  // namespace lightsr
