"""Stand-ins for the CUDA libraries that PyPI's torch is linked with, so that it can be imported where there are none.

usage: stubs.py TORCH_LIB_DIRECTORY

What an earlier run made is made anew.

The loader wants every library by name, and a definition of every symbol. Each missing library is made as a shared
object of functions that answer "no device" (100). A symbol with a version is looked for in the library that the
version names, so it is defined there; one without is found in whichever library has it, so all those go into one.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

SYSTEM = re.compile(r"(lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s|gomp)\.so|ld-linux)")
CUDA = re.compile(r"(__cuda|cu[A-Z]|cuda|cublas|cudnn|cufft|curand|cusparse|cusolver|nccl|pnccl|nvrtc|nvtx|_Z\w*nvshmem|nvshmem)")
NO_DEVICE = 100
#: Names of the libraries that were made, beside them.
MADE = "stubs-made-here.txt"
SPECIAL = {
    "cudaGetDeviceCount": "int cudaGetDeviceCount(int *count) { if (count) *count = 0; return 100; }",
    "cudaDriverGetVersion": "int cudaDriverGetVersion(int *version) { if (version) *version = 0; return 0; }",
    "cudaRuntimeGetVersion": "int cudaRuntimeGetVersion(int *version) { if (version) *version = 13000; return 0; }",
    "cudaGetErrorString": 'const char *cudaGetErrorString(int error) { return "no CUDA device"; }',
    "cudaGetErrorName": 'const char *cudaGetErrorName(int error) { return "cudaErrorNoDevice"; }',
    "cudaGetLastError": "int cudaGetLastError(void) { return 0; }",
    "cudaPeekAtLastError": "int cudaPeekAtLastError(void) { return 0; }",
}


def readelf(*arguments):
    return subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, check=False).stdout


def libraries(directory):
    return [path for path in sorted(directory.iterdir()) if path.is_file() and re.search(r"\.so(\.|$)", path.name)]


def missing_libraries(directory):
    """Names that some library here is linked with and nothing provides."""
    here = {path.name for path in libraries(directory)}
    needed = set()
    for path in libraries(directory):
        needed.update(re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("-d", path)))
    return {name for name in needed if name not in here and not SYSTEM.match(name)}


def wanted_symbols(directory, missing):
    """For each missing library its symbols: name, version, whether it is an object."""
    defined, wanted, library_of_version = set(), set(), {}
    for path in libraries(directory):
        for line in readelf("--dyn-syms", path).splitlines():
            columns = line.split()
            if len(columns) < 8 or not columns[0].endswith(":"):
                continue
            name, _, version = columns[7].partition("@")
            if columns[6] != "UND":
                defined.add(name)
            elif columns[4] == "GLOBAL":
                wanted.add((name, version.lstrip("@"), columns[3] == "OBJECT"))
        library = None
        for line in readelf("-V", path).splitlines():
            if found := re.search(r"File: (\S+)", line):
                library = found.group(1)
            if (found := re.search(r"Name: (\S+)", line)) and library:
                library_of_version[found.group(1)] = library
    by_library = defaultdict(set)
    for name, version, is_object in wanted:
        library = library_of_version.get(version) if version else sorted(missing)[0]
        if library in missing and (version or (name not in defined and CUDA.match(name))):
            by_library[library].add((name, version, is_object))
    return by_library


def source_of(name, is_object):
    if is_object:
        return f"char {name}[64];"
    if name in SPECIAL:
        return SPECIAL[name]
    if name.startswith(("__cudaRegister", "__cudaUnregister", "__cudaInit")):
        return f"static void *at_{name}[8]; void *{name}(void) {{ return at_{name}; }}"
    return f"int {name}(void) {{ return {NO_DEVICE if 'cuda' in name else 1}; }}"


def build(library, symbols, directory, work):
    lines, versions = [], defaultdict(list)
    for name, version, is_object in sorted(symbols):
        lines.append(source_of(name, is_object))
        if version:
            versions[version].append(name)
    source = work / f"{library}.c"
    source.write_text("\n".join(lines) + "\n")
    command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{library}"]
    if versions:
        script = work / f"{library}.map"
        script.write_text("".join(f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions.items()))
        command.append(f"-Wl,--version-script={script}")
    subprocess.run([*command, "-o", str(directory / library), str(source)], check=True)


def main():
    directory = Path(sys.argv[1])
    list_of_made = directory / MADE
    if list_of_made.exists():
        for name in list_of_made.read_text().split():
            (directory / name).unlink(missing_ok=True)
    missing = missing_libraries(directory)
    if not missing:
        print("stubs: every library is there")
        return
    by_library = wanted_symbols(directory, missing)
    list_of_made.write_text("\n".join(sorted(missing)))
    with tempfile.TemporaryDirectory() as work:
        for library in sorted(missing):
            build(library, by_library[library], directory, Path(work))
    print(f"stubs: {len(missing)} libraries, {sum(map(len, by_library.values()))} symbols")


if __name__ == "__main__":
    main()
