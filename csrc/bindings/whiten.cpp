#include "fairlead/whiten.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

void whiten_cpu(std::uintptr_t x, std::uintptr_t mask, std::uintptr_t result, std::uintptr_t parts,
                std::int64_t count, bool shift_mean, double eps, int threads,
                const std::string& instruction_set) {
    const WhitenArguments arguments = {pointer<const float>(x),
                                       pointer<const std::uint8_t>(mask),
                                       pointer<float>(result),
                                       pointer<Moments>(parts),
                                       count,
                                       shift_mean,
                                       eps,
                                       threads};
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.whiten(arguments);
}

#ifdef FAIRLEAD_WITH_CUDA
void whiten_cuda(std::uintptr_t x, std::uintptr_t mask, std::uintptr_t result, std::uintptr_t parts,
                 std::int64_t count, bool shift_mean, double eps, int device,
                 std::uintptr_t stream) {
    const WhitenArguments arguments = {pointer<const float>(x),
                                       pointer<const std::uint8_t>(mask),
                                       pointer<float>(result),
                                       pointer<Moments>(parts),
                                       count,
                                       shift_mean,
                                       eps,
                                       1};
    py::gil_scoped_release release;
    check_cuda(fairlead::whiten_cuda(arguments, device, pointer<void>(stream)));
}
#endif

}  // namespace

void bind_whiten(py::module_& module) {
    module.def("whiten_cpu", &whiten_cpu, py::arg("x"), py::arg("mask"), py::arg("result"),
               py::arg("parts"), py::arg("count"), py::arg("shift_mean"), py::arg("eps"),
               py::arg("threads") = 1, py::arg("instruction_set") = "");
#ifdef FAIRLEAD_WITH_CUDA
    module.def("whiten_cuda", &whiten_cuda, py::arg("x"), py::arg("mask"), py::arg("result"),
               py::arg("parts"), py::arg("count"), py::arg("shift_mean"), py::arg("eps"),
               py::arg("device"), py::arg("stream"));
#endif
}

}  // namespace fairlead::bindings
