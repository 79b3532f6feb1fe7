//! What Linux counts about processes: CPU time and memory.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// CPU time used so far by all threads of `pid`, ended ones included, seconds. The kernel counts
/// in nanoseconds and shows ticks of 10 ms.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
    let after_name = stat.rsplit_once(')').context("/proc/PID/stat has no name")?.1;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut ticks = 0u64;
    for _ in 0..2 {
        ticks += fields.next().context("/proc/PID/stat is short")?.parse::<u64>()?;
    }
    Ok(ticks as f64 / ticks_per_second()?)
}

/// False once the process has ended, reaped or not.
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    state.is_some_and(|s| s != "Z" && s != "X")
}

/// CPU time of everything on the machine, seconds, idle time left out.
pub fn machine_cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    ensure!(ticks.len() >= 8, "/proc/stat is short");
    let busy = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6] + ticks[7];
    Ok(busy as f64 / ticks_per_second()?)
}

fn ticks_per_second() -> Result<f64> {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ensure!(ticks > 0, "sysconf(_SC_CLK_TCK) failed");
    Ok(ticks as f64)
}

/// CPU time of this process, seconds.
pub fn own_cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the write; this clock cannot fail on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Memory of one or more processes, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Most resident memory since the process began, mapped files included.
    pub peak: u64,
    /// Resident now, without mapped files.
    pub anonymous: u64,
    /// Resident pages of mapped files now.
    pub mapped: u64,
}

pub fn memory(pids: &[u32]) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("");
            line.split_ascii_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        sum.peak += field("VmHWM:");
        sum.anonymous += field("RssAnon:");
        sum.mapped += field("RssFile:");
    }
    Ok(sum)
}

/// True where an fsync costs nothing, and a benchmark of durable writes is worthless.
pub fn is_memory_file_system(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: an all-zero statfs is a valid value, and the call only writes into it.
    let mut info: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in NUL and `info` is valid for the write.
    let done = unsafe { libc::statfs(path.as_ptr(), &mut info) };
    done == 0 && matches!(info.f_type as i64, TMPFS | RAMFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_counted() {
        let pid = std::process::id();
        let before = cpu_seconds(pid).unwrap();
        let mut x = 1u64;
        while own_cpu_seconds() < 0.05 {
            x = x.wrapping_mul(3);
        }
        assert!(x != 0 && cpu_seconds(pid).unwrap() > before);
        let memory = memory(&[pid]).unwrap();
        assert!(memory.peak >= memory.anonymous && memory.anonymous > 0);
        assert!(machine_cpu_seconds().unwrap() > 0.0);
        assert!(is_memory_file_system(Path::new("/dev/shm")) || !Path::new("/dev/shm").exists());
    }
}
