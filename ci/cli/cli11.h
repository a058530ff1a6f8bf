#pragma once

// The one way in which the tree includes CLI11: a precompiled header of these files, since it takes seconds to read.
#include <CLI/CLI.hpp>
