#define FAIRLEAD_ISA generic
#define FAIRLEAD_WIDTH 4
#include "kernels.inl"
