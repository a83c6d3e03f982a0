// One call of the depthwise convolution kernels, for the CPU and for CUDA: plain pointers and sizes.
#pragma once

#include "../common/types.h"

namespace lightsr {

// out = act(conv(x, weight) + bias) * gate + residual, stride 1, zero padding, same size out as in.
struct DepthwiseConv {
  Type type;           // of every tensor
  bool channels_last;  // the layout of x, gate, residual and out: dense [N, H, W, C], else dense [N, C, H, W]
  bool flip;           // take the taps in reverse order: the gradient of x is the convolution of the gradient of out
  int64_t n, c, h, w;  // none of them 0
  int kh, kw;          // odd, 1 to 31
  int64_t dh, dw;      // distance between taps in rows and columns, at least 1
  Activation activation;
  double negative_slope;
  const void* x;
  const void* weight;    // [C, KH, KW]
  const void* bias;      // [C] or null
  const void* gate;      // or null
  const void* residual;  // or null
  void* out;
};

// grad_weight[c, i, j] = sum over n, y, x of grad[n, c, y, x] * x[n, c, y + (i - kh/2) dh, x + (j - kw/2) dw],
// grad_bias[c] = sum of grad[:, c]. Sums in float32 (float64 for float64) or wider, in an order that depends on nothing
// but the sizes and the number of parts.
struct DepthwiseConvWeight {
  Type type;
  bool channels_last;  // of x and grad alike
  int64_t n, c, h, w;
  int kh, kw;
  int64_t dh, dw;
  const void* x;
  const void* grad;
  void* grad_weight;  // [C, KH, KW]
  void* grad_bias;    // [C] or null
  void* workspace;    // as many bytes as the function below the launcher asks for; null where it asks for none
};

// cpu.cpp
void depthwise_conv_forward_cpu(const DepthwiseConv&);
void depthwise_conv_backward_weight_cpu(const DepthwiseConvWeight&);

// cuda.cu; 0 or the number of a cudaError_t
int depthwise_conv_forward_cuda(const DepthwiseConv&, void* stream);
int64_t depthwise_conv_backward_weight_workspace(const DepthwiseConvWeight&);  // bytes
int depthwise_conv_backward_weight_cuda(const DepthwiseConvWeight&, void* stream);

}  // namespace lightsr
