//! The process's allocator.
//!
//! The C library's spends a third of the CPU of a put load in `malloc` and `free` (docs/benchmarks.md), as
//! requests are allocated on one thread and freed on another.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;
