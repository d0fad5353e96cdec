"""Builds pages.ptx from pages.cu with NVIDIA's compiler library: build.py LIBRARY SOURCE TARGET."""

import ctypes
import sys

# Every GPU from Volta on; the driver makes machine code of it.
OPTIONS = [b"--gpu-architecture=compute_70", b"--std=c++14"]


def main(library: str, source: str, target: str) -> None:
    nvrtc = ctypes.CDLL(library)

    def check(code: int, what: str) -> None:
        if code:
            raise SystemExit(f"{what} answered {code}")

    with open(source, "rb") as file:
        text = file.read()
    program = ctypes.c_void_p()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"pages.cu", 0, None, None), "nvrtcCreateProgram")
    options = (ctypes.c_char_p * len(OPTIONS))(*OPTIONS)
    failed = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), options)
    size = ctypes.c_size_t()
    check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)), "nvrtcGetProgramLogSize")
    log = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetProgramLog(program, log), "nvrtcGetProgramLog")
    sys.stderr.write(log.value.decode())
    check(failed, "nvrtcCompileProgram")
    check(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)), "nvrtcGetPTXSize")
    ptx = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetPTX(program, ptx), "nvrtcGetPTX")
    with open(target, "wb") as file:
        file.write(ptx.value)


if __name__ == "__main__":
    main(*sys.argv[1:])
