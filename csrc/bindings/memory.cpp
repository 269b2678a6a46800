#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "bindings.h"

namespace fairlead::bindings {
namespace {

// Asks for huge pages under memory that was just allocated and not yet touched. Of a fresh 250 MB
// the page faults, 4 KiB each, otherwise take several times as long as writing it does. Advice
// only: where the system has none to give nothing changes.
void advise_huge_pages(std::uintptr_t address, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const std::uintptr_t first = (address + page - 1) / page * page;
    const std::uintptr_t last = (address + bytes) / page * page;
    if (last > first) madvise(pointer<void>(first), last - first, MADV_HUGEPAGE);
#else
    (void)address;
    (void)bytes;
#endif
}

}  // namespace

void bind_memory(py::module_& module) {
    module.def("advise_huge_pages", &advise_huge_pages, py::arg("address"), py::arg("bytes"));
}

}  // namespace fairlead::bindings
