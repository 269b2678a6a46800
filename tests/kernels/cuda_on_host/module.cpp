// The bindings of the operations that have a CUDA kernel, over those kernels on the host.
#include "../../../csrc/bindings/gae.cpp"
#include "../../../csrc/bindings/kl_gae_whiten.cpp"
#include "../../../csrc/bindings/kl_rewards.cpp"
#include "../../../csrc/bindings/philox.cpp"
#include "../../../csrc/bindings/sample.cpp"
#include "../../../csrc/bindings/whiten.cpp"
#include "cuda_runtime.h"

namespace fairlead {

// The kernels for the CPU are not a part of this.
const CpuKernels* cpu_kernels(const char*) { return nullptr; }

}  // namespace fairlead

// faulty.cu
const char* run_turned_around(std::uintptr_t x, bool meets);
const char* run_shuffle_of_one_lane(std::uintptr_t address);
const char* run_no_end(std::uintptr_t address);

PYBIND11_MODULE(cuda_on_host, module) {
    fairlead::bindings::bind_gae(module);
    fairlead::bindings::bind_kl_gae_whiten(module);
    fairlead::bindings::bind_kl_rewards(module);
    fairlead::bindings::bind_philox(module);
    fairlead::bindings::bind_sample(module);
    fairlead::bindings::bind_whiten(module);
    module.def("run_turned_around", &run_turned_around);
    module.def("run_shuffle_of_one_lane", &run_shuffle_of_one_lane);
    module.def("run_no_end", &run_no_end);
    module.def("configure", [](const std::string& cooperative, bool upwards) {
        host::cooperative = cooperative;
        host::upwards = upwards;
    });
}
