//! What the operating system says about this process, for `process_*` metrics.

/// Figures of this process.
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) open_files: u64,
    pub(super) threads: u64,
}

/// Ticks of the CPU times in /proc: fixed at 100 a second on Linux, whatever the kernel's own rate.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    /// Reads them; None where there is no /proc.
    pub(super) fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let mut process = Self::parse(&stat)?;
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        process.resident_bytes = rss.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
        process.open_files = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        Some(process)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The second field, the name in parentheses, may hold blanks.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
        Some(Self {
            cpu_seconds: (number(11)? + number(12)?) as f64 / TICKS_PER_SECOND,
            threads: number(17)?,
            virtual_bytes: number(20)?,
            resident_bytes: 0,
            open_files: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_figures() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_files >= 3 && process.threads >= 1);
    }

    #[test]
    fn a_name_with_blanks_and_parentheses() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 100 4096 33 1";
        let process = Process::parse(stat).unwrap();
        assert_eq!((process.cpu_seconds, process.threads, process.virtual_bytes), (3.0, 9, 4096));
        assert!(Process::parse("nonsense").is_none());
    }
}
