"""LLVM IR text to machine code for the processor at hand."""

from functools import cache
from typing import Any

__all__ = ["available", "code", "has_half", "target_machine"]


@cache
def available() -> bool:
    """Whether anything can be compiled here."""
    try:
        import llvmlite.binding  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def _this_machine() -> tuple[Any, str, str]:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def has_half() -> bool:
    """Whether the processor converts 16-bit floats itself; elsewhere LLVM would call a library that is not there."""
    import llvmlite.binding as llvm

    return bool(llvm.get_host_cpu_features().get("f16c")) or "aarch64" in llvm.get_default_triple()


def target_machine() -> Any:
    """A code generator for this processor: a new one each time, since the engine that uses it frees it in the end."""
    target, cpu, features = _this_machine()
    return target.create_target_machine(cpu=cpu, features=features, opt=3)


def code(text: str, function: str, *, unroll: bool = False) -> tuple[Any, int]:
    """The engine that owns the compiled module, to be kept as long as the code is used, and the function's address."""
    import llvmlite.binding as llvm

    target = target_machine()
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = target.triple, str(target.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = unroll
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    return engine, int(engine.get_function_address(function))
