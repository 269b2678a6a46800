#define FAIRLEAD_ISA avx2
#define FAIRLEAD_WIDTH 8
#include "kernels.inl"
