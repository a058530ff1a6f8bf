# shellcheck shell=bash
# shellcheck disable=SC2034  # variables are for the scripts that source this
# Shared by the scripts in this folder, which source it. They start in the project's root folder.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 2

# say TEXT...: with the time since the script's start.
say() { printf '== %d:%02d %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*" >&2; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

jobs=$(nproc)

# files PATTERN...: the tree's own files by their names, also where it is no repository of git.
files() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard "$@"
  else
    local matches=()
    for pattern in "$@"; do matches+=(-o -path "./$pattern"); done
    find . \( -path './build*' -o -name .git \) -prune -o -type f \( -false "${matches[@]}" \) -printf '%P\n'
  fi
}

# build FOLDER CMAKE-ARGUMENT...: configures when needed and builds all.
build() {
  local folder=$1
  shift
  if [[ ! -f $folder/build.ninja ]]; then
    cmake -S . -B "$folder" -G Ninja "$@" >&2
  fi
  cmake --build "$folder" --parallel "$jobs" >&2
}

# Quick to compile, and still fast enough that what tests wait for is the guest.
quick_flags=(-DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON)
# With sanitizers, under which optimising takes as long as all the rest; clang takes two thirds of the time of g++, and warns of
# other things. Guests are not run there.
sanitizer_flags=(-DCMAKE_CXX_COMPILER=clang++-14 -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O0 -g1" -DVMTEST_BUILD_EXAMPLES=OFF -DVMTEST_BUILD_VM_TESTS=OFF)
