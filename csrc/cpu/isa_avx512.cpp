#define FAIRLEAD_ISA avx512
#define FAIRLEAD_WIDTH 16
#include "kernels.inl"
