//! `netsy inspect`: prints any of netsy's files.

use clap::Args;

#[derive(Args)]
pub struct InspectArgs {
    /// A path, or an object URL: s3://bucket/key, gs://bucket/key, file:///path.
    file: String,
    /// One JSON object a line instead of text.
    #[arg(long)]
    json: bool,
}
