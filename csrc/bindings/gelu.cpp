#include "fairlead/gelu.h"

#include "bindings.h"

namespace fairlead::bindings {
namespace {

void gelu_cpu(std::uintptr_t x, std::uintptr_t grad, std::uintptr_t out, std::int64_t count,
              int type, int threads, const std::string& instruction_set) {
    const GeluArguments arguments = {pointer<const void>(x),       pointer<const void>(grad),
                                     pointer<void>(out),           count,
                                     static_cast<FloatType>(type), threads};
    const CpuKernels& chosen = kernels(instruction_set);
    py::gil_scoped_release release;
    chosen.gelu(arguments);
}

}  // namespace

void bind_gelu(py::module_& module) {
    module.def("gelu_cpu", &gelu_cpu, py::arg("x"), py::arg("grad"), py::arg("out"),
               py::arg("count"), py::arg("type"), py::arg("threads") = 1,
               py::arg("instruction_set") = "");
}

}  // namespace fairlead::bindings
