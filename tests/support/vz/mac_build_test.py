#!/usr/bin/env python3
"""The build on a Mac, with programs in place of the Mac's tools that write down what they are asked: what would be
compiled, linked, signed and installed, and that nothing is looked for that only the rest of vmtest needs."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

CMAKE = os.environ.get("CMAKE", "cmake")
SOURCE = pathlib.Path(__file__).resolve().parents[3]
HELPER = SOURCE / "drivers/vz/helper"
ENTITLEMENTS = HELPER / "entitlements.plist"
CXX20 = {"-std=c++20", "-std=c++2a"}
APPLE_SILICON = {"apple_silicon.mm", "apple_silicon_none.mm"}

# Says what it was asked, a line a call, and makes the file that is to come of it.
TOOL = """#!/bin/sh
name=${0##*/}
{ printf '%s' "$name"; printf '\\t%s' "$@"; echo; } >> "$TOOL_LOG"
case $name in
  clang++) while [ $# -gt 0 ]; do [ "$1" != -o ] || : > "$2"; shift; done ;;
  ar) : > "$2" ;;
  codesign) [ "$1" != --display ] || cat "$CODESIGN_ENTITLEMENTS" ;;
esac
"""
# What CMake would find out of Apple's compiler, which is not asked.
TOOLCHAIN = """set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_VERSION 24.0.0)
set(CMAKE_SYSTEM_PROCESSOR {architecture})
set(CMAKE_CXX_COMPILE_FEATURES cxx_std_20)
set(CMAKE_CXX20_COMPILE_FEATURES cxx_std_20)
set(CMAKE_SIZEOF_VOID_P 8)
foreach(language CXX OBJCXX)
  set(CMAKE_${{language}}_COMPILER {tools}/clang++)
  set(CMAKE_${{language}}_COMPILER_ID AppleClang)
  set(CMAKE_${{language}}_COMPILER_ID_RUN TRUE)
  set(CMAKE_${{language}}_COMPILER_VERSION 16.0.0)
  set(CMAKE_${{language}}_ABI_COMPILED TRUE)
  set(CMAKE_${{language}}_STANDARD_COMPUTED_DEFAULT 98)
  set(CMAKE_${{language}}_EXTENSIONS_COMPUTED_DEFAULT ON)
endforeach()
set(CMAKE_CXX_COMPILER_FORCED TRUE)
"""
HTTPLIB = """Name: cpp-httplib
Description: stands for Homebrew's
Version: 0.18.0
Libs: -lcpp-httplib
Cflags: -DCPPHTTPLIB_OPENSSL_SUPPORT
"""


class Mac:
    """A build tree for a Mac, with its tools."""

    def __init__(self, folder: pathlib.Path, architecture: str) -> None:
        self.tree = folder / "tree"
        self.prefix = folder / "prefix"
        self.log = folder / "log"
        tools = folder / "tools"
        packages = folder / "packages"
        for made in (tools, packages, folder / "sdk"):
            made.mkdir()
        for name in ("clang++", "ar", "ranlib", "install_name_tool", "codesign"):
            (tools / name).write_text(TOOL)
            (tools / name).chmod(0o755)
        (folder / "toolchain.cmake").write_text(TOOLCHAIN.format(architecture=architecture, tools=tools))
        (packages / "cpp-httplib.pc").write_text(HTTPLIB)
        (packages / "nlohmann_json-config.cmake").write_text(
            "add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED)\n"
        )
        self.environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PKG_CONFIG_LIBDIR": str(packages),
            "PKG_CONFIG_PATH": "",
            "TOOL_LOG": str(self.log),
            "CODESIGN_ENTITLEMENTS": str(ENTITLEMENTS),
        }
        self.environment.pop("MACOSX_DEPLOYMENT_TARGET", None)
        self.configuration = [
            *("-S", str(SOURCE), "-B", str(self.tree), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
            f"-DCMAKE_TOOLCHAIN_FILE={folder}/toolchain.cmake",
            f"-DCMAKE_OSX_SYSROOT={folder}/sdk",
            f"-DCMAKE_INSTALL_PREFIX={self.prefix}",
            f"-Dnlohmann_json_DIR={packages}",
            # A Mac need not have them; the other ones are not among the packages.
            *(f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in ("fmt", "OpenSSL", "GTest")),
        ]

    def cmake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CMAKE, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )

    def cmake_must(self, *arguments: str) -> str:
        result = self.cmake(*arguments)
        if result.returncode != 0:
            raise AssertionError(f"{shlex.join(arguments)}: {result.stdout}")
        return result.stdout

    def configure(self) -> str:
        return self.cmake_must(*self.configuration)

    def build(self) -> None:
        # What CMake tried while it configured is nothing of the build. One at a time: the log's lines stay whole.
        self.log.write_text("")
        self.cmake_must("--build", str(self.tree), "--parallel", "1")

    def calls(self, tool: str) -> list[list[str]]:
        """The arguments of each call of a tool, in order."""
        lines = [line.split("\t") for line in self.log.read_text().splitlines()]
        return [arguments for name, *arguments in lines if name == tool]

    def compiled(self) -> dict[str, list[str]]:
        """The arguments of the compiler by the source's name."""
        return {pathlib.Path(call[-1]).name: call for call in self.calls("clang++") if "-c" in call}

    def linked(self) -> list[str]:
        calls = [call for call in self.calls("clang++") if "-c" not in call]
        if len(calls) != 1:
            raise AssertionError(f"one program is to be linked, not {calls}")
        return calls[0]


def sources() -> set[str]:
    """Of the helper, for any Mac."""
    return {path.name for pattern in ("*.cc", "*.mm") for path in HELPER.glob(pattern)} - APPLE_SILICON


class MacTestCase(unittest.TestCase):
    def mac(self, architecture: str) -> Mac:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="mac-"))
        self.addCleanup(shutil.rmtree, folder)
        return Mac(folder, architecture)


class AppleSiliconTest(MacTestCase):
    def setUp(self) -> None:
        self.built = self.mac("arm64")
        self.said = self.built.configure()
        self.built.build()

    def test_says_what_is_left_out(self) -> None:
        self.assertIn("on macOS the VZ helper alone is built (vmtest_vz_helper)", self.said)

    def test_compiles_every_source_of_the_helper_and_no_other(self) -> None:
        self.assertEqual(set(self.built.compiled()), sources() | {"apple_silicon.mm"})

    def test_compiles_cxx20_for_the_oldest_system_against_the_sdk(self) -> None:
        calls = self.built.compiled().values()
        # The older spelling is CMake's for Objective-C++.
        self.assertEqual([call for call in calls if not CXX20 & set(call)], [])
        wanted = {"-mmacosx-version-min=11.0", "-isysroot", "-DCPPHTTPLIB_OPENSSL_SUPPORT"}
        self.assertEqual(wanted - set.intersection(*(set(call) for call in calls)), set())

    def test_compiles_objective_cxx_without_arc_and_for_older_systems_than_the_sdk(self) -> None:
        wanted = {"-fno-objc-arc", "-Wno-unguarded-availability", "-Wno-unguarded-availability-new"}
        compiled = self.built.compiled()
        lacking = {name: wanted - set(call) for name, call in compiled.items() if name.endswith(".mm")}
        self.assertEqual(set().union(*lacking.values()), set(), lacking)
        self.assertEqual(wanted & set(compiled["main.cc"]), set())

    def test_links_the_frameworks_into_the_helper(self) -> None:
        linked = " ".join(self.built.linked())
        self.assertIn("-o drivers/vz/helper/vmtest-vz-helper", linked)
        self.assertIn("-framework Foundation", linked)
        self.assertIn("-framework Virtualization", linked)
        self.assertIn("libvmtest_vz_helper_core.a", linked)

    def test_signs_the_helper_with_its_entitlements_once_it_is_linked(self) -> None:
        program = self.built.tree / "drivers/vz/helper/vmtest-vz-helper"
        signing = ["--force", "--sign", "-", "--entitlements", str(ENTITLEMENTS), str(program)]
        looking = ["--display", "--entitlements", "-", "--xml", str(program)]
        self.assertEqual(self.built.calls("codesign"), [signing, looking])
        order = [line.split("\t")[0] for line in self.built.log.read_text().splitlines()]
        self.assertEqual(order[-3:], ["clang++", "codesign", "codesign"])

    def test_installs_the_helper_alone_and_signs_it_there(self) -> None:
        self.built.log.write_text("")
        self.built.cmake_must("--install", str(self.built.tree))
        program = self.built.prefix / "libexec/vmtest/vmtest-vz-helper"
        files = [path for path in self.built.prefix.rglob("*") if path.is_file()]
        self.assertEqual(files, [program])
        self.assertEqual([call[-1] for call in self.built.calls("codesign")], [str(program), str(program)])


class OtherMacTest(MacTestCase):
    def test_intel_gets_the_sources_that_refuse(self) -> None:
        built = self.mac("x86_64")
        built.configure()
        built.build()
        self.assertEqual(set(built.compiled()), sources() | {"apple_silicon_none.mm"})

    def test_architectures_of_the_caller_count(self) -> None:
        built = self.mac("arm64")
        built.configuration.append("-DCMAKE_OSX_ARCHITECTURES=x86_64")
        built.configure()
        built.build()
        self.assertIn("apple_silicon_none.mm", built.compiled())
        self.assertIn("x86_64", built.linked())

    def test_two_architectures_at_once_are_refused(self) -> None:
        mac = self.mac("arm64")
        result = mac.cmake(*mac.configuration, "-DCMAKE_OSX_ARCHITECTURES=arm64;x86_64")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("built for one architecture, arm64 or x86_64", " ".join(result.stdout.split()))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
