// The same checks and hand-over as for the CPU, calling the CUDA kernels.
#define LIGHTSR_CUDA
#include "register.cpp"
