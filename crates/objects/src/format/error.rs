use std::fmt;

/// What kind of trouble a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Bytes are missing, changed or too many: a checksum, a length or a count does not hold.
    Damaged,
    /// The checksums hold, yet the content breaks a rule of the format.
    Invalid,
    /// A version or feature this program does not know.
    Unsupported,
    /// Beyond what this program reads or writes.
    TooLarge,
}

/// Why bytes are no file of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// Sort of trouble.
    pub fault: Fault,
    /// What exactly.
    pub reason: String,
}

impl FormatError {
    pub(crate) fn damaged(reason: impl fmt::Display) -> Self {
        Self { fault: Fault::Damaged, reason: reason.to_string() }
    }

    pub(crate) fn invalid(reason: impl fmt::Display) -> Self {
        Self { fault: Fault::Invalid, reason: reason.to_string() }
    }

    pub(crate) fn unsupported(reason: impl fmt::Display) -> Self {
        Self { fault: Fault::Unsupported, reason: reason.to_string() }
    }

    pub(crate) fn too_large(reason: impl fmt::Display) -> Self {
        Self { fault: Fault::TooLarge, reason: reason.to_string() }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.fault {
            Fault::Damaged => "damaged",
            Fault::Invalid => "invalid",
            Fault::Unsupported => "not supported",
            Fault::TooLarge => "too large",
        };
        write!(f, "{kind}: {}", self.reason)
    }
}

impl std::error::Error for FormatError {}
