// Picks the widest build of gae_rows.inl that this processor runs.
#include "fairlead/gae.h"

#include <cstring>

namespace fairlead {

namespace generic {
void gae(const GaeArguments& arguments);
}
#ifdef FAIRLEAD_X86
namespace avx2 {
void gae(const GaeArguments& arguments);
}
namespace avx512 {
void gae(const GaeArguments& arguments);
}
#endif

namespace {

using Kernel = void (*)(const GaeArguments&);

struct Build {
    const char* name;
    Kernel kernel;
    bool runs;
};

// Widest first. GCC's and Clang's probe asks the operating system for the register state as well.
const Build* builds(int* count) {
#ifdef FAIRLEAD_X86
    static const Build all[] = {
        {"avx512", avx512::gae, __builtin_cpu_supports("avx512f") != 0},
        {"avx2", avx2::gae, __builtin_cpu_supports("avx2") != 0},
        {"generic", generic::gae, true},
    };
#else
    static const Build all[] = {{"generic", generic::gae, true}};
#endif
    *count = static_cast<int>(sizeof(all) / sizeof(all[0]));
    return all;
}

const Build& widest() {
    int count = 0;
    const Build* all = builds(&count);
    for (int i = 0; i < count; ++i) {
        if (all[i].runs) return all[i];
    }
    return all[count - 1];
}

}  // namespace

void gae_cpu(const GaeArguments& arguments) { widest().kernel(arguments); }

bool gae_cpu_with(const GaeArguments& arguments, const char* instruction_set) {
    int count = 0;
    const Build* all = builds(&count);
    for (int i = 0; i < count; ++i) {
        if (all[i].runs && std::strcmp(all[i].name, instruction_set) == 0) {
            all[i].kernel(arguments);
            return true;
        }
    }
    return false;
}

const char* cpu_instruction_set() { return widest().name; }

}  // namespace fairlead
