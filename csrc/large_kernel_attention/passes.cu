// depthwise_conv's launchers, which cuda.cu calls where two passes pay: a library is built from its op's folder alone.
#include "../depthwise_conv/cuda.cu"
