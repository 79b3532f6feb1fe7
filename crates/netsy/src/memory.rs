//! How the C library's allocator is to behave.

/// Arenas of the allocator. By default it makes up to eight for each core; what one thread frees in one of them is of
/// no use to the others, which cost a third of the peak memory of a fill (docs/benchmarks.md).
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// To be called first, while there is one thread.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt only sets a parameter of the allocator; nothing else runs yet.
        let accepted = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) };
        debug_assert_eq!(accepted, 1, "M_ARENA_MAX is a parameter of every glibc");
    }
}
