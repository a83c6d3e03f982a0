// One call of the distillation_fusion kernels, for the CPU and for CUDA: plain pointers and sizes.
#pragma once

#include "../common/slice.h"
#include "../common/types.h"

namespace lightsr {

constexpr int most_parts = 16;  // Python joins the last ones of a longer list

// out = act(gain (weight (scale [part_0 map_0, part_1 map_1, ...]) + bias) + residual_gain residual)
struct DistillationFusion {
  Type type;                 // of every tensor
  bool channels_last;        // the layout of pictures and results
  int64_t n, pixels;         // pixels: H W; none of them 0
  int64_t in, out_channels;  // in: channels of all parts together
  int parts;
  Slice part[most_parts];
  int64_t channels[most_parts];
  const void* map[most_parts];  // [N, H W], all or none
  const void* weight;           // [out_channels, in]
  const void* bias;             // [out_channels] or null
  const void* scale;            // [N, in] or null
  const void* gain;             // one number, in the memory of the device, or null
  Slice residual;               // or none
  const void* residual_gain;    // one number or null
  Activation activation;        // on the CPU alone; for CUDA none
  double negative_slope;
  void* out;  // dense
};

// Everything that has the size of a picture, and the sums over pixels that the other gradients are made of.
struct DistillationFusionBackward {
  DistillationFusion call;      // without its activation and result
  const void* grad;             // dense
  void* grad_part[most_parts];  // dense [N, channels, H W], or null: not wanted; so for all that follow
  void* grad_map[most_parts];   // [N, H W]
  void* grad_residual;          // dense: residual_gain grad
  bool each_picture;  // whether the next two have a picture each (as a scale needs them), else a sum over pictures
  double* products;   // [N or 1, out_channels, in]: sum over pixels of grad times part map, without scale and gain
  double* sums;       // [N or 1, out_channels]: sum over pixels of grad
  double* residual_product;  // one number: sum of grad times residual
  void* workspace;           // CUDA: as many bytes as distillation_fusion_backward_workspace says
};

// cpu.cpp
void distillation_fusion_forward_cpu(const DistillationFusion&);
void distillation_fusion_backward_cpu(const DistillationFusionBackward&);

// cuda.cu; 0 or the number of a cudaError_t
int distillation_fusion_forward_cuda(const DistillationFusion&, void* stream);
int64_t distillation_fusion_backward_workspace(const DistillationFusionBackward&);  // bytes
int distillation_fusion_backward_cuda(const DistillationFusionBackward&, void* stream);

}  // namespace lightsr
