// Picks the widest build of the CPU kernels that this processor runs.
#include <cstring>

#include "fairlead/cpu.h"

namespace fairlead {

namespace generic {
extern const CpuKernels kernels;
}
#ifdef FAIRLEAD_X86
namespace avx2 {
extern const CpuKernels kernels;
}
namespace avx512 {
extern const CpuKernels kernels;
}
#endif

namespace {

struct Build {
    const char* name;
    const CpuKernels* kernels;
    bool runs;
};

const Build* find(const char* name) {
    // Widest first. GCC's and Clang's probe asks the operating system for the registers as well.
    static const Build builds[] = {
#ifdef FAIRLEAD_X86
        {"avx512", &avx512::kernels, __builtin_cpu_supports("avx512f") != 0},
        {"avx2", &avx2::kernels, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#endif
        {"generic", &generic::kernels, true},
    };
    for (const Build& build : builds) {
        if (build.runs && (*name == '\0' || std::strcmp(build.name, name) == 0)) return &build;
    }
    return nullptr;
}

}  // namespace

const CpuKernels* cpu_kernels(const char* instruction_set) {
    const Build* build = find(instruction_set);
    return build == nullptr ? nullptr : build->kernels;
}

const char* cpu_instruction_set() { return find("")->name; }

}  // namespace fairlead
