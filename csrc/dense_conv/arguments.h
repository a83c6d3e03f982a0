// One call of the kernels of dense_conv: plain pointers and sizes.
#pragma once

#include "../common/types.h"

namespace lightsr {

// out = shuffle(act(conv(x, weight) + bias + residual)), stride 1, zero padding, same size out as in.
struct DenseConv {
  Type type;           // of every tensor
  bool channels_last;  // the layout of x, residual and out: dense [N, H, W, C], else dense [N, C, H, W]
  bool transpose;      // weight is [C, C_out, KH, KW] with its taps in reverse order: the gradient of x
  bool winograd;       // 3 x 3 filters over many channels may go by fewer multiplications
  int64_t n, c, h, w;  // none of them 0 but C
  int64_t outs;        // C_out, not 0
  int kh, kw;          // odd, 1 to 7
  Activation activation;
  double negative_slope;
  int64_t shuffle;  // out is [N, C_out / shuffle^2, shuffle H, shuffle W]
  const void* x;
  const void* weight;    // [C_out, C, KH, KW], dense
  const void* bias;      // [C_out] or null
  const void* residual;  // [N, C_out, H, W] or null
  void* out;             // null where another op ends the convolution
};

// cpu.cpp
void dense_conv_forward_cpu(const DenseConv&);

}  // namespace lightsr
