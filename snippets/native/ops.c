/* The compiled side of snippets/ops.py, which checks every argument before it calls anything here. */
#include <stddef.h>
#include <stdint.h>

#define BITS 32
#include "kernels.h"
#undef BITS
#define BITS 64
#include "kernels.h"
