#include "fairlead/philox.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

// The seed comes as the int64 with its bits, which is what a torch operation can be given.
PhiloxArguments philox_arguments(std::int64_t seed, std::int64_t iteration, std::uintptr_t sequence,
                                 std::uintptr_t position, std::uintptr_t uniform,
                                 std::int64_t count, int threads) {
    return {static_cast<std::uint64_t>(seed),
            static_cast<std::uint32_t>(iteration),
            pointer<const std::int64_t>(sequence),
            pointer<const std::int64_t>(position),
            pointer<double>(uniform),
            count,
            threads};
}

void philox_uniform_cpu(std::int64_t seed, std::int64_t iteration, std::uintptr_t sequence,
                        std::uintptr_t position, std::uintptr_t uniform, std::int64_t count,
                        int threads, const std::string& instruction_set) {
    const auto arguments =
        philox_arguments(seed, iteration, sequence, position, uniform, count, threads);
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.philox_uniform(arguments);
}

#ifdef FAIRLEAD_WITH_CUDA
void philox_uniform_cuda(std::int64_t seed, std::int64_t iteration, std::uintptr_t sequence,
                         std::uintptr_t position, std::uintptr_t uniform, std::int64_t count,
                         int device, std::uintptr_t stream) {
    const auto arguments = philox_arguments(seed, iteration, sequence, position, uniform, count, 1);
    py::gil_scoped_release release;
    check_cuda(fairlead::philox_uniform_cuda(arguments, device, pointer<void>(stream)));
}
#endif

}  // namespace

void bind_philox(py::module_& module) {
    module.def("philox_uniform_cpu", &philox_uniform_cpu, py::arg("seed"), py::arg("iteration"),
               py::arg("sequence"), py::arg("position"), py::arg("uniform"), py::arg("count"),
               py::arg("threads") = 1, py::arg("instruction_set") = "");
#ifdef FAIRLEAD_WITH_CUDA
    module.def("philox_uniform_cuda", &philox_uniform_cuda, py::arg("seed"), py::arg("iteration"),
               py::arg("sequence"), py::arg("position"), py::arg("uniform"), py::arg("count"),
               py::arg("device"), py::arg("stream"));
#endif
}

}  // namespace fairlead::bindings
